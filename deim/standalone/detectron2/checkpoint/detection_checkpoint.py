"""Saving and loading of runs."""

import pickle

import detectron2.utils.comm as comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer


class DetectionCheckpointer(Checkpointer):
    """fvcore's checkpointer over detectron2's path manager; only the main process writes."""

    def __init__(self, model, save_dir="", *, save_to_disk=None, **checkpointables):
        main = comm.is_main_process()
        super().__init__(
            model, save_dir, save_to_disk=main if save_to_disk is None else save_to_disk, **checkpointables
        )
        self.path_manager = PathManager

    def _load_file(self, f):
        """A checkpoint as a dict with a ``model`` entry; a bare state dict is wrapped."""
        if str(f).endswith(".pkl"):
            with PathManager.open(f, "rb") as opened:
                loaded = pickle.load(opened, encoding="latin1")
        else:
            loaded = super()._load_file(f)
        return loaded if "model" in loaded else {"model": loaded}
