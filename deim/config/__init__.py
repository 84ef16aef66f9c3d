"""Configs: loading, changing, building."""

from deim.config.building import build
from deim.config.loading import find_config, get_config, load_config
from deim.config.recipes import (
    with_datasets,
    with_deim_dfine,
    with_deim_loss,
    with_deim_rtdetr,
    with_dense_o2o,
    with_fdr,
    with_learned_queries,
)

__all__ = [
    "build",
    "find_config",
    "get_config",
    "load_config",
    "with_datasets",
    "with_deim_dfine",
    "with_deim_loss",
    "with_deim_rtdetr",
    "with_dense_o2o",
    "with_fdr",
    "with_learned_queries",
]
