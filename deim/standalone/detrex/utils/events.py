"""Event writer for Weights & Biases."""

from detectron2.utils.events import EventWriter, get_event_storage
from omegaconf import OmegaConf


class WandbWriter(EventWriter):
    """Writer of scalars to a run of Weights & Biases."""

    def __init__(self, cfg, window_size: int = 20):
        """Start a run.

        Args:
            cfg: the config, which is uploaded. ``cfg.train.wandb.params`` are the arguments of ``wandb.init``.
            window_size: number of iterations for the median of noisy scalars.

        Raises:
            ImportError: if wandb is not installed.
        """
        try:
            import wandb
        except ImportError as error:
            raise ImportError("train.wandb.enabled=True needs the package wandb: pip install 'deim[wandb]'") from error
        self._window_size = window_size
        self._writer = wandb.init(config=OmegaConf.to_container(cfg, resolve=True), **cfg.train.wandb.params)
        self._last_write = -1

    def write(self):
        latest = get_event_storage().latest_with_smoothing_hint(self._window_size)
        fresh = [(name, value, when) for name, (value, when) in latest.items() if when > self._last_write]
        for name, value, when in fresh:
            self._writer.log({name: value}, step=when)
        self._last_write = max((when for _, _, when in fresh), default=self._last_write)

    def close(self):
        self._writer.finish()
