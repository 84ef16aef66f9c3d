"""Errors that a user can mend: command-line tools print their message without a traceback."""


class DeimError(Exception):
    """Base of the errors below."""


class ConfigError(DeimError):
    """A config file, a key of it or an override is wrong."""


class DatasetError(DeimError):
    """A data set is missing, empty or malformed."""


class CheckpointError(DeimError):
    """A checkpoint is missing or does not fit the model."""


class ExportError(DeimError):
    """An exported model does not do what the model in torch does."""
