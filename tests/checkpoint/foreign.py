"""Digests of the tensor names and shapes in checkpoints of other code, from a build of every model."""

import hashlib
from collections.abc import Mapping

from torch import Tensor


def digest(weights: Mapping[str, Tensor]) -> tuple[int, str]:
    """Return the number of tensors, and a digest of their names and shapes."""
    lines = sorted(f"{name} {tuple(value.shape)}" for name, value in weights.items())
    return len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


# The models were built with the official code of DEIMv2, D-FINE, DEIM, RT-DETRv2, Deformable DETR, DN-DETR and
# H-Deformable-DETR, and with detrex 0.5, from the config of each recipe.
# (format, recipe, (tensors, digest) in training form, (tensors, digest) in deployment form). The latter is None for
# RT-DETRv2, whose code keeps the parts that it folds; DEIM's code removes them from its RT-DETRv2.
REAL_TIME = [
    ("deimv2", "deimv2/deimv2_hgnetv2_n_coco", (639, "ae40f1b585d2188a"), (487, "a1232b2627a05fa9")),
    ("deimv2", "deimv2/deimv2_dinov3_s_coco", (673, "9bbfdbe5ea51047c"), (407, "b25713053697f348")),
    ("dfine", "dfine/dfine_n_coco", (674, "4feb2f97ef17e075"), (506, "de872e1746529464")),
    ("dfine", "dfine/dfine_s_coco", (794, "f83ca7c932a1b745"), (550, "b2c806d7ab994b0f")),
    ("dfine", "dfine/dfine_m_coco", (1053, "ad3dd7dadcff694c"), (723, "34046dbe9297792b")),
    ("dfine", "dfine/dfine_l_coco", (1173, "c5bb9369adcb984d"), (751, "012b36f6d63002d5")),
    ("dfine", "dfine/dfine_x_coco", (1441, "b74f48197a5ba662"), (1019, "b1a1aabc8274006f")),
    ("deim", "deim_dfine/deim_dfine_n_coco", (674, "4feb2f97ef17e075"), (506, "de872e1746529464")),
    ("deim", "deim_dfine/deim_dfine_s_coco", (794, "f83ca7c932a1b745"), (550, "b2c806d7ab994b0f")),
    ("deim", "deim_dfine/deim_dfine_m_coco", (1053, "ad3dd7dadcff694c"), (723, "34046dbe9297792b")),
    ("deim", "deim_dfine/deim_dfine_l_coco", (1253, "882ebd32669d5bcc"), (831, "6b3b0cbeb54c2531")),
    ("deim", "deim_dfine/deim_dfine_x_coco", (1571, "3cedbf9408685b87"), (1149, "694b964e292cdd3a")),
    ("rtdetrv2", "rtdetrv2/rtdetrv2_r18vd_120e_coco", (538, "53f6e75fc771e27e"), None),
    ("rtdetrv2", "rtdetrv2/rtdetrv2_r34vd_120e_coco", (665, "f65cc3238cf3a18d"), None),
    ("rtdetrv2", "rtdetrv2/rtdetrv2_r50vd_m_7x_coco", (768, "8565aee2d9e81432"), None),
    ("rtdetrv2", "rtdetrv2/rtdetrv2_r50vd_6x_coco", (744, "4a738e26bdc31b9f"), None),
    ("rtdetrv2", "rtdetrv2/rtdetrv2_r101vd_6x_coco", (999, "c2b0cbbfcf8a132f"), None),
    ("rtdetrv2", "deim_rtdetrv2/deim_rtdetrv2_r18vd_120e_coco", (540, "0f6592feec2bee73"), (356, "30520ce236c800aa")),
    ("rtdetrv2", "deim_rtdetrv2/deim_rtdetrv2_r34vd_120e_coco", (667, "de60a0e6312acc7e"), (483, "24b00fe15361c3ed")),
    ("rtdetrv2", "deim_rtdetrv2/deim_rtdetrv2_r50vd_m_60e_coco", (732, "43bcb1a1fbe60d30"), (548, "65a7b1bdd04927f0")),
    ("rtdetrv2", "deim_rtdetrv2/deim_rtdetrv2_r50vd_60e_coco", (801, "8c37f6620a278f89"), (633, "a04466c5cb765cdf")),
    ("rtdetrv2", "deim_rtdetrv2/deim_rtdetrv2_r101vd_60e_coco", (1107, "decf1cb868b0cefc"), (939, "21e4312125fda390")),
]
# (format, recipe, number of classes, (tensors, digest) in training form)
DETRS = [
    ("dn_detr", "dn_detr/dn_detr_r50_50ep_coco", 91, (591, "7498c31bfeb856be")),
    ("dn_detr", "dn_detr/dn_detr_r50_dc5_3_patterns_12ep_coco", 91, (592, "9fab1f06ac9d2b98")),
    ("dn_detr", "dn_detr/dn_deformable_encoder_detr_r50_50ep_coco", 91, (627, "ccc64a6971acd8eb")),
    ("dn_detr", "dn_detr/dn_deformable_detr_r50_50ep_coco", 91, (605, "a0805f155d868d00")),
    ("h_detr", "h_deformable_detr/h_deformable_detr_r50_12ep_coco", 91, (631, "f359ed75165dd19d")),
    ("h_detr", "h_deformable_detr/h_deformable_detr_swin_tiny_12ep_coco", 91, (553, "6e1e49211c83b3b2")),
    ("deformable_detr", "deformable_detr/deformable_detr_r50_single_scale_50ep_coco", 91, (549, "e07ea3984d1a9256")),
    ("deformable_detr", "deformable_detr/deformable_detr_r50_50ep_coco", 91, (561, "6c9d8c8328464e3f")),
    ("deformable_detr", "deformable_detr/deformable_detr_r50_refine_50ep_coco", 91, (597, "158c54dc580cea97")),
    ("deformable_detr", "deformable_detr/deformable_detr_r50_two_stage_50ep_coco", 91, (630, "0c958c56061c1909")),
    ("detrex", "deformable_detr/deformable_detr_r50_50ep_coco", 80, (561, "ebe67210cc5c31b6")),
    ("detrex", "deformable_detr/deformable_detr_r50_refine_50ep_coco", 80, (597, "4f1ca5f195de3fda")),
    ("detrex", "deformable_detr/deformable_detr_r50_two_stage_50ep_coco", 80, (630, "1b536676146cacee")),
    ("detrex", "dn_detr/dn_detr_r50_50ep_coco", 80, (603, "c4cc29da81e20a4c")),
    ("detrex", "dn_detr/dn_detr_r50_dc5_50ep_coco", 80, (603, "428755b98cf8835e")),
    ("detrex", "dn_detr/dn_deformable_detr_r50_50ep_coco", 80, (605, "62f928a9a1c903c1")),
    ("detrex", "h_deformable_detr/h_deformable_detr_r50_12ep_coco", 80, (631, "674b288c5ec7da6f")),
    ("detrex", "h_deformable_detr/h_deformable_detr_swin_tiny_12ep_coco", 80, (553, "c04d016af93e4495")),
]
