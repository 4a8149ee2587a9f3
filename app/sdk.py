"""The one place that imports PopTorch: the real one, or the IPU Model's drop-in.

All other modules say ``from app.sdk import poptorch``.
"""

from typing import TYPE_CHECKING

from app.backend import chosen

if TYPE_CHECKING or chosen() == "ipu-model":
    from app.ipu_model import poptorch
else:
    import poptorch

__all__ = ["poptorch"]
