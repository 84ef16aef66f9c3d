"""Training iteration that a sample is made for."""

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch.utils.data import get_worker_info


def current_iteration() -> int:
    """Return the current iteration of the enclosing training loop; 0 outside of a training loop."""
    return get_event_storage().iter if has_event_storage() else 0


class IterationEstimator:
    """Estimator of the iteration from the number of samples made, for data loaders that do not provide it.

    Every worker process counts its own samples and assumes that the other workers have made the same number. A worker
    forked inside a training loop starts at the iteration of that loop.

    Args:
        total_batch_size: images per iteration over all ranks.
    """

    def __init__(self, total_batch_size: int):
        self.batch_size = max(total_batch_size // comm.get_world_size(), 1)
        self._start: int | None = None
        self._num_samples = 0

    def count_sample(self) -> int:
        """Count one sample and return its estimated iteration."""
        if self._start is None:
            self._start = current_iteration()
        worker = get_worker_info()
        iteration = self._start + self._num_samples * (1 if worker is None else worker.num_workers) // self.batch_size
        self._num_samples += 1
        return iteration
