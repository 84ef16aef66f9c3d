"""Seeding of all random generators used in training."""

import logging
import os
import random

import numpy as np
import torch

__all__ = ["seed_all_rng"]


def seed_all_rng(seed: int | None = None) -> None:
    """Seed the generators of Python, NumPy and torch.

    Args:
        seed: the seed; None draws one and logs it.
    """
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "big") % 2**31
        logging.getLogger(__name__).info(f"Using a generated random seed {seed}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    os.environ["PYTHONHASHSEED"] = str(seed)
