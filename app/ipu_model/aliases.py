"""The names ``poptorch``, ``popdist`` and ``popart`` for the IPU Model's packages.

An import hook answers for these names and everything below them with the module of
``app.ipu_model`` itself: there is one object per module, whatever name it was imported by. Nothing
is imported before a program asks, so this module is cheap to load.
"""

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Dict, Optional, Sequence

_HOME = "app.ipu_model"
PACKAGES = ("poptorch", "popdist", "popart")
# names under which public programs reach PopTorch's compiled core and its executor
_ELSEWHERE = {
    "poptorch.poptorch_core": f"{_HOME}.poptorch.errors",
    "poptorch._poplar_executor": f"{_HOME}.poptorch.executor",
}
_REPOSITORY = Path(__file__).resolve().parents[2]
_STAND_INS = Path(__file__).resolve().parent / "stand_ins"


def home_of(name: str) -> Optional[str]:
    """The IPU Model's name for a module of the SDK; None for every other module."""
    if name.split(".", 1)[0] not in PACKAGES:
        return None
    return _ELSEWHERE.get(name, f"{_HOME}.{name}")


class _AliasLoader(importlib.abc.Loader):
    """Answers an import with a module that has its own name, spec and loader already."""

    def __init__(self, home: str) -> None:
        self._home = home
        self._own: Dict[str, object] = {}

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        module = importlib.import_module(self._home)
        self._own = {"__spec__": module.__spec__, "__loader__": module.__loader__}
        return module

    def exec_module(self, module: ModuleType) -> None:
        # the import system has just marked the module as the alias's
        vars(module).update(self._own)


class _AliasFinder(importlib.abc.MetaPathFinder):
    """Finds the SDK's modules in the IPU Model, before any installed SDK."""

    def find_spec(
        self,
        fullname: str,
        path: Optional[Sequence[str]] = None,
        target: Optional[ModuleType] = None,
    ) -> Optional[importlib.machinery.ModuleSpec]:
        home = home_of(fullname)
        found = importlib.util.find_spec(home) if home is not None else None
        if home is None or found is None:
            return None
        return importlib.machinery.ModuleSpec(
            fullname, _AliasLoader(home), origin=found.origin, is_package=_is_package(found)
        )


def _is_package(spec: importlib.machinery.ModuleSpec) -> bool:
    return spec.submodule_search_locations is not None


def install() -> None:
    """Answer for the SDK's names in this process; a second call changes nothing."""
    if not any(isinstance(finder, _AliasFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AliasFinder())


def give_place(stand_in: str) -> None:
    """Replace a stand-in, which is being imported, by the IPU Model's package."""
    install()
    home = home_of(stand_in)
    assert home is not None
    sys.modules[stand_in] = importlib.import_module(home)


def put_on_path() -> None:
    """Let child processes find the IPU Model, whichever way they are started.

    The repository goes to the end of the path: its top-level ``datasets`` must not hide an
    installed package of that name.
    """
    first, last = str(_STAND_INS), str(_REPOSITORY)
    rest = [entry for entry in sys.path[1:] if entry not in (first, last)]
    sys.path[1:] = [first, *rest, last]
    inherited = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    with contextlib.suppress(ValueError):
        inherited.remove("")
    rest = [entry for entry in inherited if entry not in (first, last)]
    os.environ["PYTHONPATH"] = os.pathsep.join([first, *rest, last])
