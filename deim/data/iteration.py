"""Which iteration of a training run samples are made for."""

from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch.utils.data import get_worker_info


def current_iteration() -> int:
    """Return the iteration of the training loop that this call is made in; 0 outside of one."""
    return get_event_storage().iter if has_event_storage() else 0


class SampleClock:
    """Estimates the iteration from the number of samples made so far, for loaders that do not state it.

    Every worker process counts its own samples and assumes that the others have made as many. A worker that is forked
    inside of a training loop begins at the iteration of that loop.

    Args:
        total_batch_size: images per iteration over all processes.
    """

    def __init__(self, total_batch_size: int):
        self.batch_size = max(total_batch_size // comm.get_world_size(), 1)
        self._start: int | None = None
        self._made = 0

    def tick(self) -> int:
        """Count one sample and return the iteration that it is for."""
        if self._start is None:
            self._start = current_iteration()
        worker = get_worker_info()
        iteration = self._start + self._made * (1 if worker is None else worker.num_workers) // self.batch_size
        self._made += 1
        return iteration
