"""Errors that a user can fix. Command-line tools print their message without a traceback."""


class DeimError(Exception):
    """Base class of errors that a user can fix."""


class ConfigError(DeimError):
    """An invalid config file, config key or override."""


class DatasetError(DeimError):
    """A missing, empty or malformed dataset."""


class CheckpointError(DeimError):
    """A checkpoint that is missing or does not fit the model."""


class ExportError(DeimError):
    """A model that cannot be exported, or an exported model whose outputs differ from those of the torch model."""
