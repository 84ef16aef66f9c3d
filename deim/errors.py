"""Errors that a user can fix. Command-line tools print their message without a traceback."""


class DeimError(Exception):
    """Base class of the errors of this module."""


class ConfigError(DeimError):
    """An invalid config file, config key or override."""


class DatasetError(DeimError):
    """A missing, empty or malformed dataset."""


class CheckpointError(DeimError):
    """A checkpoint that is missing or does not fit the model."""


class ExportError(DeimError):
    """An exported model whose outputs differ from those of the torch model."""
