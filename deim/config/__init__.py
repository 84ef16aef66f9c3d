"""Loading, modifying and building of configs."""

from deim.config.building import build
from deim.config.detrex import with_deim_criterion
from deim.config.keypoints import (
    with_keypoint_data,
    with_keypoints,
    without_keypoint_data,
    without_keypoints,
)
from deim.config.loading import find_config, get_config, get_detrex_config, load_config
from deim.config.masks import with_mask_data, with_masks, without_mask_data, without_masks
from deim.config.recipes import with_datasets, with_deim_dfine, with_deim_rtdetr, with_ecseg, with_iterations
from deim.config.switches import (
    SWITCHES,
    is_on,
    switch,
    with_deim_loss,
    with_denoising,
    with_dense_o2o,
    with_fdr,
    with_hybrid_branch,
    with_learned_queries,
    without_deim_loss,
    without_denoising,
    without_dense_o2o,
    without_fdr,
    without_hybrid_branch,
)

__all__ = [
    "SWITCHES",
    "build",
    "find_config",
    "get_config",
    "get_detrex_config",
    "is_on",
    "load_config",
    "switch",
    "with_datasets",
    "with_deim_criterion",
    "with_deim_dfine",
    "with_deim_loss",
    "with_deim_rtdetr",
    "with_denoising",
    "with_dense_o2o",
    "with_ecseg",
    "with_fdr",
    "with_hybrid_branch",
    "with_iterations",
    "with_keypoint_data",
    "with_keypoints",
    "with_learned_queries",
    "with_mask_data",
    "with_masks",
    "without_deim_loss",
    "without_denoising",
    "without_dense_o2o",
    "without_fdr",
    "without_hybrid_branch",
    "without_keypoint_data",
    "without_keypoints",
    "without_mask_data",
    "without_masks",
]
