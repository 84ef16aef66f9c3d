"""Simulation of data loader workers and of ranks that wait for each other in each step."""

import numpy as np

# Batches per worker that torch's DataLoader loads in advance.
PREFETCH_FACTOR = 2


def random_times(mean: float, variation: float, shape: tuple[int, int], seed: int) -> np.ndarray:
    """Return positive random times, float64 of ``shape``, from a gamma distribution.

    Args:
        mean: mean of the times.
        variation: standard deviation, relative to the mean.
        shape: (ranks, steps).
        seed: seed of the random numbers.
    """
    if not mean or not variation:
        return np.full(shape, mean)
    return np.random.default_rng(seed).gamma(variation**-2, mean * variation**2, shape)


def simulate(
    loading: np.ndarray, computing: np.ndarray, workers: int, prefetch_factor: int = PREFETCH_FACTOR
) -> np.ndarray:
    """Return the end time of each step, (steps,), of ranks that wait for each other at the end of every step.

    Every rank has its own workers, as in torch's DataLoader: batch ``i`` belongs to worker ``i % workers``, batches are
    consumed in order, and a batch is assigned when the rank takes the batch ``prefetch_factor * workers`` before it.

    Args:
        loading: time to load each batch in one worker, (ranks, steps).
        computing: time of each step without loading and waiting, (ranks, steps).
        workers: worker processes per rank; 0 loads between the steps.
        prefetch_factor: batches per worker that are loaded in advance.
    """
    ranks, steps = loading.shape
    ends, end = np.zeros(steps), 0.0
    taken, loaded = np.zeros((steps, ranks)), np.zeros((steps, ranks))
    for step in range(steps):
        if workers:
            before, previous = step - prefetch_factor * workers, step - workers
            assigned = taken[before] if before >= 0 else np.zeros(ranks)
            free = loaded[previous] if previous >= 0 else np.zeros(ranks)
            loaded[step] = np.maximum(assigned, free) + loading[:, step]
            taken[step] = np.maximum(end, loaded[step])
        else:
            taken[step] = end + loading[:, step]
        end = ends[step] = float((taken[step] + computing[:, step]).max())
    return ends


def mean_period(ends: np.ndarray, warmup: int) -> float:
    """Return the mean time of a step after the first ``warmup`` steps, given the end times of all steps."""
    return float((ends[-1] - ends[warmup - 1]) / (len(ends) - warmup))
