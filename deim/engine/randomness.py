"""Random seeds that depend only on the position in a run, not on its history."""

import random

import numpy as np
import torch


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """Seed the generators of Python, NumPy and torch for an iteration of a rank.

    Random numbers in the model, such as the noise of denoising queries, are then the same after ``--resume``.
    """
    state = np.random.SeedSequence([seed, iteration, rank]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))
    torch.manual_seed(int(state[2]))
