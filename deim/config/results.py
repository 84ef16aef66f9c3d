"""Published AP of each recipe.

This table is the single source: tests compare the documentation, the docstrings of recipes and ``deim zoo`` with it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A published result.

    Attributes:
        recipe: name of the recipe.
        average_precision: AP in percent on COCO's validation set.
        source: URL of the page that publishes it.
        hardware: training hardware.
    """

    recipe: str
    average_precision: float
    source: str
    hardware: str


_DEIM = "https://github.com/ShihuaHuang95/DEIM"
_DFINE = "https://github.com/Peterande/D-FINE"
_RTDETR = "https://github.com/lyuwenyu/RT-DETR"
_DEFORMABLE = "https://github.com/fundamentalvision/Deformable-DETR"
_HYBRID = "https://github.com/HDETR/H-Deformable-DETR"
_DENOISING = "https://github.com/IDEA-Research/DN-DETR"

# (system, source, hardware, {recipe: AP}); the duration is missing where the authors publish none.
_TABLES = (
    ("deim_dfine", _DEIM, "4 GPUs", {
        "deim_dfine_n_coco": 43.0,
        "deim_dfine_s_coco": 49.0,
        "deim_dfine_m_coco": 52.7,
        "deim_dfine_l_coco": 54.7,
        "deim_dfine_x_coco": 56.5,
    }),
    ("dfine", _DFINE, "4 GPUs", {
        "dfine_n_coco": 42.8,
        "dfine_s_coco": 48.5,
        "dfine_m_coco": 52.3,
        "dfine_l_coco": 54.0,
        "dfine_x_coco": 55.8,
    }),
    ("deim_rtdetrv2", _DEIM, "4 GPUs", {
        "deim_rtdetrv2_r18vd_120e_coco": 49.0,
        "deim_rtdetrv2_r34vd_120e_coco": 50.9,
        "deim_rtdetrv2_r50vd_60e_coco": 54.3,
        "deim_rtdetrv2_r101vd_60e_coco": 55.5,
    }),
    ("deim_rtdetrv2", _DEIM, "one RTX 4090 in a day", {"deim_rtdetrv2_r50vd_m_60e_coco": 53.2}),
    ("rtdetrv2", _RTDETR, "4 GPUs", {
        "rtdetrv2_r18vd_120e_coco": 48.1,
        "rtdetrv2_r34vd_120e_coco": 49.9,
        "rtdetrv2_r50vd_m_7x_coco": 51.9,
        "rtdetrv2_r50vd_6x_coco": 53.4,
        "rtdetrv2_r101vd_6x_coco": 54.3,
    }),
    ("deformable_detr", _DEFORMABLE, "V100 for 160 GPU hours", {"deformable_detr_r50_single_scale_50ep_coco": 39.4}),
    ("deformable_detr", _DEFORMABLE, "V100 for 215 GPU hours", {"deformable_detr_r50_dc5_single_scale_50ep_coco": 41.5}),
    ("deformable_detr", _DEFORMABLE, "V100 for 325 GPU hours", {
        "deformable_detr_r50_50ep_coco": 44.5,
        "deformable_detr_r50_refine_50ep_coco": 46.2,
    }),
    ("deformable_detr", _DEFORMABLE, "V100 for 340 GPU hours", {"deformable_detr_r50_two_stage_50ep_coco": 46.9}),
    ("h_deformable_detr", _HYBRID, "8 GPUs", {
        "h_deformable_detr_r50_12ep_coco": 48.7,
        "h_deformable_detr_r50_36ep_coco": 50.0,
        "h_deformable_detr_swin_tiny_12ep_coco": 50.6,
        "h_deformable_detr_swin_tiny_36ep_coco": 53.2,
        "h_deformable_detr_swin_large_12ep_coco": 55.9,
        "h_deformable_detr_swin_large_36ep_coco": 57.1,
        "h_deformable_detr_swin_large_900_queries_12ep_coco": 56.1,
        "h_deformable_detr_swin_large_900_queries_36ep_coco": 57.4,
    }),
    ("dn_detr", _DENOISING, "8 GPUs", {
        "dn_detr_r50_50ep_coco": 44.4,
        "dn_detr_r50_dc5_50ep_coco": 46.3,
        "dn_detr_r50_dc5_3_patterns_12ep_coco": 41.7,
        "dn_detr_r101_dc5_3_patterns_12ep_coco": 42.8,
    }),
    ("dn_detr", _DENOISING, "4 to 8 A100", {
        "dn_deformable_detr_r50_24ep_coco": 48.4,
        "dn_deformable_detr_r50_50ep_coco": 49.5,
    }),
    ("dn_detr", _DENOISING, "16 GPUs", {
        "dn_deformable_encoder_detr_r50_12ep_coco": 43.4,
        "dn_deformable_encoder_detr_r101_12ep_coco": 44.1,
        "dn_deformable_encoder_detr_r50_50ep_coco": 48.6,
    }),
)  # fmt: skip

RESULTS: dict[str, Result] = {
    f"{system}/{name}": Result(f"{system}/{name}", score, source, hardware)
    for system, source, hardware, scores in _TABLES
    for name, score in scores.items()
}
