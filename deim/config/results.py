"""Published AP of each recipe, size and latency of its model.

This table is the single source: tests compare the documentation, the docstrings of recipes and ``deim zoo`` with it.
"""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class Result:
    """A published result, if there is one, and the size of the model.

    Attributes:
        recipe: name of the recipe.
        average_precision: AP in percent on COCO's validation set, as published; the AP of masks for ECSeg, and of keypoints
            for ECPose. None if no result is published.
        source: URL of the page that publishes the AP; empty without AP.
        hardware: training hardware, with the training time if it is published; empty without AP.
        parameters: number of parameters of the deployed model in millions, as counted by ``deim benchmark model``.
        gflops: operations of the deployed model for one image in units of 1e9, as counted by ``deim benchmark model``:
            twice the multiply-adds.
        latency: milliseconds per image on a T4 in TensorRT with float16, as published; None if not published.
        image_size: height and width in pixels of the image that ``gflops`` and ``latency`` refer to.
    """

    recipe: str
    average_precision: float | None
    source: str
    hardware: str
    parameters: float
    gflops: float
    latency: float | None = None
    image_size: tuple[int, int] = field(default=(640, 640), kw_only=True)


_DEIMV2 = "https://github.com/Intellindust-AI-Lab/DEIMv2"
_EDGECRAFTER = "https://github.com/Intellindust-AI-Lab/EdgeCrafter"
_DEIM = "https://github.com/ShihuaHuang95/DEIM"
_DFINE = "https://github.com/Peterande/D-FINE"
_RTDETR = "https://github.com/lyuwenyu/RT-DETR"
_DEFORMABLE = "https://github.com/fundamentalvision/Deformable-DETR"
_HYBRID = "https://github.com/HDETR/H-Deformable-DETR"
_DENOISING = "https://github.com/IDEA-Research/DN-DETR"

# (system, source, hardware, {recipe: (AP, millions of parameters, GFLOPs, latency)}); the hardware includes the training time
# where the authors publish it. None and "" stand for models that have not been trained. RT-DETRv2's page publishes images per
# second; the latency is the inverse.
_TABLES = (
    ("deimv2", _DEIMV2, "4 GPUs", {
        "deimv2_hgnetv2_atto_coco": (23.8, 0.49, 0.764, 1.10),
        "deimv2_hgnetv2_femto_coco": (31.0, 0.96, 1.67, 1.45),
        "deimv2_hgnetv2_pico_coco": (38.5, 1.51, 5.16, 2.13),
        "deimv2_hgnetv2_n_coco": (43.0, 3.57, 6.88, 2.32),
        "deimv2_dinov3_s_coco": (50.9, 9.71, 25.3, 5.78),
        "deimv2_dinov3_m_coco": (53.0, 18.11, 51.6, 8.80),
        "deimv2_dinov3_l_coco": (56.0, 32.18, 96.0, 10.47),
        "deimv2_dinov3_x_coco": (57.8, 50.26, 151, 13.75),
    }),
    ("ecdet", _EDGECRAFTER, "4 GPUs", {
        "ecdet_s_coco": (51.7, 9.81, 26.1, 5.41),
        "ecdet_m_coco": (54.3, 19.21, 53.1, 7.98),
        "ecdet_l_coco": (57.0, 32.66, 98.7, 10.49),
        "ecdet_x_coco": (57.9, 48.97, 156, 12.70),
    }),
    ("ecseg", _EDGECRAFTER, "4 GPUs", {
        "ecseg_s_coco": (43.0, 10.34, 31.3, 6.96),
        "ecseg_m_coco": (45.2, 20.14, 61, 9.85),
        "ecseg_l_coco": (47.1, 33.60, 106.6, 12.56),
        "ecseg_x_coco": (48.4, 49.90, 163.9, 14.96),
    }),
    ("ecpose", _EDGECRAFTER, "4 GPUs", {
        "ecpose_s_coco": (68.9, 9.92, 30.5, 5.54),
        "ecpose_m_coco": (72.4, 19.75, 63.0, 9.25),
        "ecpose_l_coco": (73.5, 34.26, 111, 11.83),
        "ecpose_x_coco": (74.8, 50.57, 171, 14.31),
    }),
    ("deim_dfine", _DEIM, "4 GPUs", {
        "deim_dfine_n_coco": (43.0, 3.75, 7.1, 2.12),
        "deim_dfine_s_coco": (49.0, 10.24, 23.7, 3.49),
        "deim_dfine_m_coco": (52.7, 19.25, 55.2, 5.62),
        "deim_dfine_l_coco": (54.7, 30.77, 89.7, 8.07),
        "deim_dfine_x_coco": (56.5, 61.70, 199, 12.89),
    }),
    ("deim_dfine", "", "", {
        "deim_dfine_n_masks_coco": (None, 3.97, 12.0),
        "deim_dfine_s_masks_coco": (None, 11.10, 38.7),
        "deim_dfine_m_masks_coco": (None, 20.18, 73.7),
        "deim_dfine_l_masks_coco": (None, 31.84, 115),
        "deim_dfine_x_masks_coco": (None, 62.77, 225),
    }),
    ("dfine", _DFINE, "4 GPUs", {
        "dfine_n_coco": (42.8, 3.75, 7.1, 2.12),
        "dfine_s_coco": (48.5, 10.24, 23.7, 3.49),
        "dfine_m_coco": (52.3, 19.25, 55.2, 5.62),
        "dfine_l_coco": (54.0, 30.72, 89.5, 8.07),
        "dfine_x_coco": (55.8, 61.60, 199, 12.89),
    }),
    ("deim_rtdetrv2", _DEIM, "4 GPUs", {
        "deim_rtdetrv2_r18vd_120e_coco": (49.0, 19.98, 57.4, 4.59),
        "deim_rtdetrv2_r34vd_120e_coco": (50.9, 31.24, 89.4, 6.4),
        "deim_rtdetrv2_r50vd_60e_coco": (54.3, 42.14, 130, 9.15),
        "deim_rtdetrv2_r101vd_60e_coco": (55.5, 74.87, 246, 13.66),
    }),
    ("deim_rtdetrv2", _DEIM, "one RTX 4090 in a day", {"deim_rtdetrv2_r50vd_m_60e_coco": (53.2, 32.99, 96.8, 6.9)}),
    ("rtdetrv2", _RTDETR, "4 GPUs", {
        "rtdetrv2_r18vd_120e_coco": (48.1, 19.98, 57.4, 4.6),
        "rtdetrv2_r34vd_120e_coco": (49.9, 31.24, 89.4, 6.2),
        "rtdetrv2_r50vd_m_7x_coco": (51.9, 32.94, 96.4, 6.9),
        "rtdetrv2_r50vd_6x_coco": (53.4, 42.09, 130, 9.3),
        "rtdetrv2_r101vd_6x_coco": (54.3, 74.77, 245, 13.5),
    }),
    ("deformable_detr", _DEFORMABLE, "V100 for 160 GPU hours", {"deformable_detr_r50_single_scale_50ep_coco": (39.4, 34.06, 189)}),
    ("deformable_detr", _DEFORMABLE, "V100 for 215 GPU hours", {"deformable_detr_r50_dc5_single_scale_50ep_coco": (41.5, 34.06, 312)}),
    ("deformable_detr", _DEFORMABLE, "V100 for 325 GPU hours", {
        "deformable_detr_r50_50ep_coco": (44.5, 40.07, 413),
        "deformable_detr_r50_refine_50ep_coco": (46.2, 40.83, 413),
    }),
    ("deformable_detr", _DEFORMABLE, "V100 for 340 GPU hours", {"deformable_detr_r50_two_stage_50ep_coco": (46.9, 41.16, 417)}),
    ("deformable_detr", "", "", {"deformable_detr_r50_two_stage_masks_50ep_coco": (None, 42.23, 483)}),
    ("h_deformable_detr", _HYBRID, "8 GPUs", {
        "h_deformable_detr_r50_12ep_coco": (48.7, 47.54, 559),
        "h_deformable_detr_r50_36ep_coco": (50.0, 47.54, 559),
        "h_deformable_detr_swin_tiny_12ep_coco": (50.6, 48.09, 570),
        "h_deformable_detr_swin_tiny_36ep_coco": (53.2, 48.09, 570),
        "h_deformable_detr_swin_large_12ep_coco": (55.9, 217.68, 1891),
        "h_deformable_detr_swin_large_36ep_coco": (57.1, 217.68, 1891),
        "h_deformable_detr_swin_large_900_queries_12ep_coco": (56.1, 217.83, 1903),
        "h_deformable_detr_swin_large_900_queries_36ep_coco": (57.4, 217.83, 1903),
    }),
    ("dn_detr", _DENOISING, "8 GPUs", {
        "dn_detr_r50_50ep_coco": (44.4, 43.69, 205),
        "dn_detr_r50_dc5_50ep_coco": (46.3, 43.69, 361),
        "dn_detr_r50_dc5_3_patterns_12ep_coco": (41.7, 43.69, 376),
        "dn_detr_r101_dc5_3_patterns_12ep_coco": (42.8, 62.63, 535),
    }),
    ("dn_detr", _DENOISING, "4 to 8 A100", {
        "dn_deformable_detr_r50_24ep_coco": (48.4, 47.41, 556),
        "dn_deformable_detr_r50_50ep_coco": (49.5, 47.41, 556),
    }),
    ("dn_detr", _DENOISING, "16 GPUs", {
        "dn_deformable_encoder_detr_r50_12ep_coco": (43.4, 48.48, 607),
        "dn_deformable_encoder_detr_r101_12ep_coco": (44.1, 67.42, 766),
        "dn_deformable_encoder_detr_r50_50ep_coco": (48.6, 48.48, 607),
    }),
)  # fmt: skip

# Systems whose images have about 800 x 1333 pixels, and recipes with other sizes than 640 x 640.
_LARGE_IMAGES = ("deformable_detr", "h_deformable_detr", "dn_detr")
_IMAGE_SIZES = {"deimv2_hgnetv2_atto_coco": (320, 320), "deimv2_hgnetv2_femto_coco": (416, 416)}


def _image_size(system: str, name: str) -> tuple[int, int]:
    return (800, 1333) if system in _LARGE_IMAGES else _IMAGE_SIZES.get(name, (640, 640))


RESULTS: dict[str, Result] = {
    f"{system}/{name}": replace(
        Result(f"{system}/{name}", precision, source, hardware, *size), image_size=_image_size(system, name)
    )
    for system, source, hardware, rows in _TABLES
    for name, (precision, *size) in rows.items()
}
