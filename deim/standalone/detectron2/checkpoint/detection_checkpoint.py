"""Saving and loading of checkpoints."""

import logging
import pickle

import detectron2.utils.comm as comm
from detectron2.utils.file_io import PathManager
from fvcore.common.checkpoint import Checkpointer


class DetectionCheckpointer(Checkpointer):
    """fvcore's checkpointer with detectron2's path manager. Only rank 0 writes."""

    def __init__(self, model, save_dir="", *, save_to_disk=None, **checkpointables):
        """Create the checkpointer.

        Args:
            model: the model.
            save_dir: folder of the checkpoints.
            save_to_disk: whether this rank writes; by default only rank 0 does.
            checkpointables: further objects with ``state_dict`` and ``load_state_dict``.
        """
        main = comm.is_main_process()
        super().__init__(
            model, save_dir, save_to_disk=main if save_to_disk is None else save_to_disk, **checkpointables
        )
        self.path_manager = PathManager

    def load(self, path, *args, **kwargs):
        """Load a checkpoint.

        Args:
            path: path of the file; if it is empty, nothing is loaded.

        Returns:
            The content of the file apart from the model and the checkpointables.

        Raises:
            NotImplementedError: if the tensor names must be matched by detectron2's heuristics.
            ValueError: if the path ends with a query.
        """
        logging.getLogger(__name__).info(f"[DetectionCheckpointer] Loading from {path} ...")
        if path and "?" in str(path):
            if "matching_heuristics=True" in path:
                raise _unsupported(path)
            raise ValueError(f"Unsupported query in the path of the checkpoint {path}")
        return super().load(path, *args, **kwargs)

    def _load_file(self, f):
        """Read a checkpoint as a dict with the entry ``model``; a plain state dict becomes this entry."""
        if f.endswith(".pyth"):
            raise _unsupported(f)
        if f.endswith(".pkl"):
            with PathManager.open(f, "rb") as opened:
                loaded = pickle.load(opened, encoding="latin1")
            if "model" not in loaded or "__author__" not in loaded:
                raise _unsupported(f)
            self.logger.info(f"Reading a file from '{loaded['__author__']}'")
        else:
            loaded = super()._load_file(f)
        if "model" not in loaded:
            return {"model": loaded}
        if loaded.get("matching_heuristics", False):
            raise _unsupported(f)
        return loaded

    def _load_model(self, checkpoint):
        incompatible = super()._load_model(checkpoint)
        buffers = dict(self.model.named_buffers(recurse=False))
        # The config defines their values.
        constants = {"pixel_mean", "pixel_std"} & set(buffers)
        incompatible.missing_keys[:] = [key for key in incompatible.missing_keys if key not in constants]
        # Earlier versions of detectron2 saved these buffers.
        anchors = "anchor_generator.cell_anchors"
        incompatible.unexpected_keys[:] = [key for key in incompatible.unexpected_keys if anchors not in key]
        return incompatible


def _unsupported(path: str) -> NotImplementedError:
    return NotImplementedError(
        f"The bundled subset of detectron2 does not convert the names of the tensors in {path}; install detectron2."
    )
