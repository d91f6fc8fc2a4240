"""Errors a caller can meet. Each message says who, what was got, what was expected, what to do."""


class PrsmedError(Exception):
    """Base of every error this project raises on purpose."""


class DataError(PrsmedError):
    """A file, a manifest row or a data folder cannot be used."""


class RequestError(PrsmedError):
    """A question, an option or a request cannot be answered as it was put."""


class CheckpointError(PrsmedError):
    """Weights are missing, damaged, or belong to another model."""
