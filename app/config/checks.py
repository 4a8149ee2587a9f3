"""How a section refuses a value."""


class FieldError(ValueError):
    """A section's field holds an unusable value. ``field`` names it, ``str(error)`` says why."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def require(condition: bool, field_name: str, message: str) -> None:
    """Raise ``FieldError`` unless the condition holds."""
    if not condition:
        raise FieldError(field_name, message)
