"""The application's errors.

Each message reads ``where: what is wrong, what was found; what to do``. The command line prints an
``AppError`` as one line and leaves with its ``exit_code``; any other exception is a bug and keeps
its traceback.
"""


class AppError(Exception):
    """Something the user can mend; ``str(error)`` is the whole message."""

    exit_code = 2


class ConfigError(AppError):
    """A configuration, flag or option that cannot be used."""


class DatasetError(AppError):
    """A dataset that is not there or cannot be read."""


class CheckpointError(AppError):
    """A checkpoint or run directory that cannot be read or written."""


class NoPlanError(AppError):
    """Nothing fits: no plan, however frugal, within the request."""

    exit_code = 3


class MisfitError(AppError):
    """A program that does not fit in memory."""

    exit_code = 3
