"""Modules as text, with the blocks they start.

Source: graphcore/poptorch, python/_printing.py (SDK 3.4).
"""

import builtins
from typing import Any

import torch


def module_repr(m: torch.nn.Module) -> str:
    """torch's text for the module and its children, each after its forward pre-hooks."""
    extra = m.extra_repr()
    extra_lines = extra.split("\n") if extra else []
    child_lines = [
        f"({name}): " + module_repr(child).replace("\n", "\n  ")
        for name, child in m._modules.items()
        if child is not None
    ]
    lines = extra_lines + child_lines
    hooks = "".join(f"{hook!r} " for hook in m._forward_pre_hooks.values())
    head = f"{hooks}{m._get_name()}("
    if not lines:
        return head + ")"
    if len(extra_lines) == 1 and not child_lines:
        return f"{head}{extra_lines[0]})"
    return head + "\n  " + "\n  ".join(lines) + "\n)"


def print(m: Any) -> None:
    """Print a module with its blocks, then as Python prints it; anything else only the latter."""
    if isinstance(m, torch.nn.Module):
        builtins.print(module_repr(m))
    builtins.print(m)
