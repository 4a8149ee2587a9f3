"""The translation table: from torch's operations to the kinds of the op graph.

The rules stand by family: `elementwise`, `reductions`, `layers`, `movement`, `indexing`; a rule of
`compositions` is a program of other operations. What has neither is decomposed as torch's own
compiler would.
"""

from functools import lru_cache
from typing import Any, Callable, Optional

import torch

# the rules register themselves
from app.ipu_model.trace import elementwise, indexing, layers, reductions  # noqa: F401
from app.ipu_model.trace.call import RULES
from app.ipu_model.trace.compositions import COMPOSITIONS
from app.ipu_model.trace.movement import VIEWS

__all__ = ["COMPOSITIONS", "RULES", "VIEWS", "decomposition", "is_composite"]


def decomposition(func: Any) -> Optional[Callable[..., Any]]:
    """torch's own program for an operation, if it has one; it takes the arguments by name."""
    from torch._decomp import decomposition_table  # slow to import, and seldom needed

    program: Optional[Callable[..., Any]] = decomposition_table.get(func)
    if program is None:
        return None
    by_position = [a.name for a in func._schema.arguments if not a.kwarg_only]

    def run(**named: Any) -> Any:  # the program's own names differ from the schema's
        assert program is not None
        positional = [named.pop(name) for name in by_position]
        options = {name: value for name, value in named.items() if value is not None}
        return program(*positional, **options)

    return run


@lru_cache(maxsize=None)
def is_composite(func: Any, name: str) -> bool:
    """Whether torch itself runs the operation as others, and no rule takes it as a whole. Autograd
    does so before a mode sees it, unless a mode is what calls it."""
    if name in RULES or name in VIEWS or name in COMPOSITIONS:
        return False
    implicit = torch._C._dispatch_has_kernel_for_dispatch_key
    return bool(implicit(func.name(), "CompositeImplicitAutograd"))
