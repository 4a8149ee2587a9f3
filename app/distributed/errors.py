"""How a run of several instances ends early."""

from app.errors import AppError


class InstanceError(AppError):
    """Another instance ended, hangs or cannot be reached; the message names it."""

    exit_code = 5


class PreemptedError(AppError):
    """The run was told to stop, and has written a checkpoint."""

    exit_code = 143  # what a shell reports after SIGTERM
