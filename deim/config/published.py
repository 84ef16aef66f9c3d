"""URLs of published weights for the recipes."""

import logging
from dataclasses import dataclass
from pathlib import Path

from deim.checkpoint.download import cache_folder, fetch, local_path
from deim.checkpoint.pretrained import is_name
from deim.config.results import RESULTS
from deim.errors import CheckpointError

logger = logging.getLogger("detectron2.deim")

_DFINE = "https://github.com/Peterande/storage/releases/download/dfinev1.0/"
_RTDETR = "https://github.com/lyuwenyu/storage/releases/download/"
_DRIVE = "https://drive.google.com/file/d/"
_HDETR = "https://github.com/HDETR/H-Deformable-DETR/releases/download/v0.1/"
_HYBRID = "hybrid_branch_lambda1_group6_t1500_{}dp0_mqs_lft_deformable_detr_plus_iterative_bbox_refinement_plus_plus_two_stage"
_DEIMV2 = "https://huggingface.co/Intellindust/DEIMv2_{}_COCO/resolve/main/model.safetensors"
_EDGECRAFTER = "https://github.com/capsule2077/edgecrafter/releases/download/edgecrafterv1/"
_DETREX = "https://github.com/IDEA-Research/detrex-storage/releases/download/"


@dataclass(frozen=True)
class Published:
    """A published file of weights.

    The authors publish no checksums. The file is checked when it is loaded: every tensor must fit the model.

    Attributes:
        recipe: name of the recipe whose model the file fits.
        data: training data: "coco", "objects365", or "objects365_coco" for pretraining on Objects365, then COCO.
        url: URL of the file, or of its page on Google Drive.
        average_precision: published AP in percent for this file, on the validation set of COCO (of Objects365 for
            "objects365"), of keypoints for ECPose; None if none is published. For converted files, the AP measured by the
            converting project.
        file_name: file name in the cache.
    """

    recipe: str
    data: str
    url: str
    average_precision: float | None
    file_name: str

    @property
    def path(self) -> Path:
        """Path of the file in the cache, whether or not it exists."""
        return cache_folder() / self.file_name


def published_for(recipe: str) -> list[Published]:
    """Return all published weights of a recipe."""
    return [published for published in PUBLISHED if published.recipe == recipe]


def initial_weights_for(recipe: str) -> list[Published]:
    """Return the published weights that a training of a recipe can start from.

    They are those of the recipe. If none are published for a recipe with masks, they are those of the recipe for boxes.
    """
    return published_for(recipe) or published_for(recipe.replace("_masks_", "_"))


def find(recipe: str, data: str) -> Published:
    """Return the published weights of a recipe for the training data ``data``.

    Raises:
        CheckpointError: if there are none; lists the available names.
    """
    return _select(published_for(recipe), recipe, data)


def _select(available: list[Published], recipe: str, data: str) -> Published:
    for published in available:
        if published.data == data:
            return published
    names = ", ".join(published.data for published in available) or "none"
    raise CheckpointError(
        f"no weights {data!r} are published for {recipe} (available: {names}), and no such file exists"
    )


def weights_path(recipe: str, weights: str) -> str:
    """Return the path of weights for inference, downloading them if needed.

    Args:
        recipe: name of a recipe.
        weights: a path, a URL, or "coco", "objects365" or "objects365_coco" for the published weights of the recipe.

    Raises:
        CheckpointError: if no such weights are published for the recipe, or the download fails.
    """
    if not is_name(weights):
        return local_path(weights)
    published = find(recipe, weights)
    try:
        return str(fetch(published.url, published.path))
    except CheckpointError as error:
        replacement = substitute(recipe, weights)
        if replacement is None:
            raise
        raise CheckpointError(
            f"{error}. D-FINE of the same size is hosted elsewhere: use the recipe {replacement.recipe}"
        ) from error


def initial_weights_path(recipe: str, weights: str) -> str:
    """Return the path of the initial weights for training; arguments as for :func:`weights_path`.

    The weights are those of :func:`initial_weights_for`. If the file of DEIM-D-FINE cannot be downloaded, D-FINE of the same
    size is used, with a warning in the log.

    Raises:
        CheckpointError: if no such weights are published for the recipe, or the download fails.
    """
    if not is_name(weights):
        return local_path(weights)
    published = _select(initial_weights_for(recipe), recipe, weights)
    replacement = substitute(published.recipe, weights)
    try:
        return str(fetch(published.url, published.path))
    except CheckpointError as error:
        if replacement is None:
            raise
        logger.warning(f"{error}\nTraining starts from {replacement.recipe} (D-FINE of the same size) instead.")
    return str(fetch(replacement.url, replacement.path))


def substitute(recipe: str, data: str) -> Published | None:
    """Return the D-FINE weights that can replace those of a DEIM-D-FINE recipe, or None."""
    dfine_recipe = recipe.replace("deim_dfine", "dfine")
    if dfine_recipe == recipe:
        return None
    return next((published for published in published_for(dfine_recipe) if published.data == data), None)


def _named(recipe: str, data: str, url: str, average_precision: float | None = None) -> Published:
    score = RESULTS[recipe].average_precision if average_precision is None else average_precision
    return Published(recipe, data, url, score, url.rpartition("/")[2])


def _on_drive(recipe: str, identifier: str) -> Published:
    name, score = recipe.rpartition("/")[2], RESULTS[recipe].average_precision
    return Published(recipe, "coco", f"{_DRIVE}{identifier}/view", score, f"{name}.pth")


def _on_hugging_face(name: str) -> Published:
    """Return the weights of a DEIMv2; ``name`` is that of the authors, such as "DINOv3_S"."""
    recipe = f"deimv2/deimv2_{name.lower()}_coco"
    # The files of all sizes have one name.
    file_name = f"{recipe.rpartition('/')[2]}.safetensors"
    return Published(recipe, "coco", _DEIMV2.format(name), RESULTS[recipe].average_precision, file_name)


_DEIMV2_NAMES = (
    *(f"HGNetv2_{size}" for size in ("ATTO", "FEMTO", "PICO", "N")),
    *(f"DINOv3_{size}" for size in ("S", "M", "L", "X")),
)
_DFINE_FILES = (
    ("n", "coco", "n_coco"),
    ("s", "coco", "s_coco"),
    ("m", "coco", "m_coco"),
    ("l", "coco", "l_coco"),
    ("x", "coco", "x_coco"),
    ("s", "objects365_coco", "s_obj2coco", 50.7),
    ("m", "objects365_coco", "m_obj2coco", 55.1),
    ("l", "objects365_coco", "l_obj2coco_e25", 57.3),
    ("x", "objects365_coco", "x_obj2coco", 59.3),
    ("s", "objects365", "s_obj365", 31.0),
    ("m", "objects365", "m_obj365", 38.6),
    ("l", "objects365", "l_obj365_e25", 44.7),
    ("x", "objects365", "x_obj365", 49.5),
)
_RTDETR_FILES = (
    ("r18vd_120e", "coco", "v0.2/rtdetrv2_r18vd_120e_coco_rerun_48.1"),
    ("r34vd_120e", "coco", "v0.1/rtdetrv2_r34vd_120e_coco_ema"),
    ("r50vd_m_7x", "coco", "v0.1/rtdetrv2_r50vd_m_7x_coco_ema"),
    ("r50vd_6x", "coco", "v0.1/rtdetrv2_r50vd_6x_coco_ema"),
    ("r101vd_6x", "coco", "v0.1/rtdetrv2_r101vd_6x_coco_from_paddle"),
    ("r18vd_120e", "objects365_coco", "v0.1/rtdetrv2_r18vd_5x_coco_objects365_from_paddle", 49.0),
    ("r50vd_6x", "objects365_coco", "v0.1/rtdetrv2_r50vd_2x_coco_objects365_from_paddle", 55.2),
    ("r101vd_6x", "objects365_coco", "v0.1/rtdetrv2_r101vd_2x_coco_objects365_from_paddle", 56.2),
)
_DEIM_FILES = (
    ("deim_dfine/deim_dfine_n_coco", "1ZPEhiU9nhW4M5jLnYOFwTSLQC1Ugf62e"),
    ("deim_dfine/deim_dfine_s_coco", "1tB8gVJNrfb6dhFvoHJECKOF5VpkthhfC"),
    ("deim_dfine/deim_dfine_m_coco", "18Lj2a6UN6k_n_UzqnJyiaiLGpDzQQit8"),
    ("deim_dfine/deim_dfine_l_coco", "1PIRf02XkrA2xAD3wEiKE2FaamZgSGTAr"),
    ("deim_dfine/deim_dfine_x_coco", "1dPtbgtGgq1Oa7k_LgH1GXPelg1IVeu0j"),
    ("deim_rtdetrv2/deim_rtdetrv2_r18vd_120e_coco", "153_JKff6EpFgiLKaqkJsoDcLal_0ux_F"),
    ("deim_rtdetrv2/deim_rtdetrv2_r34vd_120e_coco", "1O9RjZF6kdFWGv1Etn1Toml4r-YfdMDMM"),
    ("deim_rtdetrv2/deim_rtdetrv2_r50vd_m_60e_coco", "10dLuqdBZ6H5ip9BbBiE6S7ZcmHkRbD0E"),
    ("deim_rtdetrv2/deim_rtdetrv2_r50vd_60e_coco", "1mWknAXD5JYknUQ94WCEvPfXz13jcNOTI"),
    ("deim_rtdetrv2/deim_rtdetrv2_r101vd_60e_coco", "1BIevZijOcBO17llTyDX32F_pYppBfnzu"),
)
# (recipe, file name parts before, inside and after `_HYBRID`)
_HDETR_FILES = (
    ("r50_12ep", "r50_", "", "_12eps"),
    ("r50_36ep", "r50_", "", "_36eps"),
    ("swin_tiny_12ep", "swin_tiny_", "", "_12eps"),
    ("swin_tiny_36ep", "swin_tiny_", "", "_36eps"),
    ("swin_large_12ep", "swin_large_", "", "_12eps"),
    ("swin_large_36ep", "drop_path0.5_swin_large_", "", "_36eps"),
    ("swin_large_900_queries_12ep", "swin_large_", "n900_", "_12eps"),
    ("swin_large_900_queries_36ep", "drop_path0.5_swin_large_", "n900_", "_36eps"),
)
_DETREX_FILES = (
    ("deformable_detr/deformable_detr_r50_50ep_coco", "v0.1.0/converted_deformable_detr_r50", 44.59),
    (
        "deformable_detr/deformable_detr_r50_refine_50ep_coco",
        "v0.1.0/converted_deformable_detr_r50_with_box_refine_50ep",
        46.28,
    ),
    (
        "deformable_detr/deformable_detr_r50_two_stage_50ep_coco",
        "v0.1.0/converted_deformable_detr_two_stage_50ep",
        47.09,
    ),
    ("dn_detr/dn_detr_r50_50ep_coco", "v0.1.0/dn_detr_r50_50ep", 44.7),
    ("dn_detr/dn_detr_r50_dc5_50ep_coco", "v0.3.0/converted_dn_detr_r50_dc5", 46.3),
    ("dn_detr/dn_deformable_detr_r50_50ep_coco", "v0.1.0/converted_dn_deformable_detr_r50_50ep", 49.5),
)

PUBLISHED: tuple[Published, ...] = (
    *(_on_hugging_face(name) for name in _DEIMV2_NAMES),
    *(
        _named(f"{system}/{system}_{size}_coco", "coco", f"{_EDGECRAFTER}{system}_{size}.pth")
        for system in ("ecdet", "ecseg", "ecpose")
        for size in "smlx"
    ),
    *(_on_drive(*row) for row in _DEIM_FILES),
    Published(
        "deim_dfine/deim_dfine_x_coco",
        "objects365",
        f"{_DRIVE}1RMNrHh3bYN0FfT5ZlWhXtQxkG23xb2xj/view",
        None,
        "deim_dfine_x_objects365.pth",
    ),
    *(
        _named(f"dfine/dfine_{size}_coco", data, f"{_DFINE}dfine_{name}.pth", *score)
        for size, data, name, *score in _DFINE_FILES
    ),
    *(
        _named(f"rtdetrv2/rtdetrv2_{size}_coco", data, f"{_RTDETR}{name}.pth", *score)
        for size, data, name, *score in _RTDETR_FILES
    ),
    *(
        _named(
            f"h_deformable_detr/h_deformable_detr_{recipe}_coco",
            "coco",
            f"{_HDETR}{before}{_HYBRID.format(queries)}{after}.pth",
        )
        for recipe, before, queries, after in _HDETR_FILES
    ),
    *(_named(recipe, "coco", f"{_DETREX}{name}.pth", ap) for recipe, name, ap in _DETREX_FILES),
)
