"""Executables on disk.

Real ones hold compiled machine code; these hold what is needed to compile again: the arguments,
and, if asked for, the model, its options and its optimiser. A file may come from a stranger, so it
is read without running code: tensors by torch's ``weights_only`` loader, objects by an unpickler
that makes nothing but modules, options, optimisers and plain values. Source of the API:
graphcore/poptorch, python/_poptorch_data.py (SDK 3.4).
"""

import io
import pickle
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch

from app.ipu_model.poptorch._data.arguments import Arguments
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

_FORMAT = "ipu-model-executable"


@dataclass
class SavedExecutable:
    """What a file holds. ``model``, ``options`` and ``optimizer`` are None unless exported."""

    arguments: Arguments
    rng_state: Optional[List[int]]
    training: bool
    model: Optional[torch.nn.Module]
    options: Optional[Options]
    optimizer: Optional[torch.optim.Optimizer]


def write(
    filename: str,
    version: str,
    arguments: Arguments,
    rng_state: Optional[List[int]],
    model: Optional[torch.nn.Module],
    options: Options,
    training: bool,
    optimizer: Optional[torch.optim.Optimizer],
) -> None:
    """Save an executable; missing folders are made, a folder gets ``model.poptorch``.

    Raises:
        AssertionError: the destination's parent is not a folder.
    """
    path = Path(filename)
    if path.is_dir():
        path = path / "model.poptorch"
        logger.warning("%s is a directory, saving model to %s", filename, path)
    folder = path.parent
    assert not folder.exists() or folder.is_dir(), f"Destination folder {folder} is not a directory"
    folder.mkdir(parents=True, exist_ok=True)
    exported = None if model is None else (model, options.clone(), optimizer)
    objects, tensors = _pickled((tuple(arguments), rng_state, training, exported))
    torch.save(
        {"format": _FORMAT, "version": version, "objects": objects, "tensors": tensors}, path
    )


def read(filename: str, version: str) -> SavedExecutable:
    """Load what ``write`` saved.

    Raises:
        Error: another version wrote the file, or it is not an executable.
    """
    path = Path(filename)
    if path.is_dir():
        path = path / "model.poptorch"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's loader comments on files and on itself
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise Error(f"{path}: not an executable of the IPU Model ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise Error(f"{path}: not an executable of the IPU Model; save it with compileAndExport.")
    if content["version"] != version:
        raise Error(
            f"{path}: The PopTorch version mismatch: it was saved by {content['version']}, this is "
            f"{version}; export it again."
        )
    values = _Unpickler(bytes(content["objects"].numpy()), content["tensors"], str(path)).load()
    arguments, rng_state, training, exported = values
    model, options, optimizer = exported if exported is not None else (None, None, None)
    return SavedExecutable(Arguments(*arguments), rng_state, training, model, options, optimizer)


def _pickled(value: Any) -> Tuple[torch.Tensor, Dict[str, torch.Tensor]]:
    """The objects as bytes, and apart from them their tensors."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(value)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8), pickler.tensors


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, protocol=4)
        self.tensors: Dict[str, torch.Tensor] = {}
        self._keys: Dict[int, str] = {}

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return None
        key = self._keys.setdefault(id(value), str(len(self._keys)))
        self.tensors[key] = value.detach()
        is_parameter = isinstance(value, torch.nn.Parameter)
        return ("parameter" if is_parameter else "tensor", key, value.requires_grad)


class _Unpickler(pickle.Unpickler):
    """Makes plain values, torch's and importable modules, and this package's own objects."""

    def __init__(self, objects: bytes, tensors: Dict[str, torch.Tensor], where: str) -> None:
        super().__init__(io.BytesIO(objects))
        self._tensors = tensors
        self._made: Dict[str, torch.Tensor] = {}
        self._where = where

    def persistent_load(self, pid: Any) -> Any:
        kind, key, requires_grad = pid
        if key not in self._made:
            tensor = self._tensors[key]
            self._made[key] = (
                torch.nn.Parameter(tensor, requires_grad)
                if kind == "parameter"
                else tensor.requires_grad_(requires_grad)
            )
        return self._made[key]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        found = _defined(module, name)
        if found is None:
            raise Error(
                f"{self._where}: it holds a {module}.{name}, which this program has not imported; "
                f"import {module} before loading."
            )
        home = str(getattr(found, "__module__", ""))
        if isinstance(found, type):
            if issubclass(found, (torch.nn.Module, torch.optim.Optimizer)) or home.startswith(
                "app.ipu_model.poptorch."
            ):
                return found
        elif home == module == "torch.nn.functional":
            return found
        raise Error(
            f"{self._where}: {module}.{name} is neither a module nor a plain value, and is not "
            "loaded; export with export_model=False and call loadExecutable."
        )


def _defined(module: str, name: str) -> Any:
    """What an imported module holds under a name; dots lead into classes, not into other modules.

    Importing a module that a file names would run it, so None if the program has not.
    """
    found: Any = sys.modules.get(module)
    for depth, part in enumerate(name.split(".")):
        if depth and not isinstance(found, type):
            return None
        found = getattr(found, part, None)
    return found


_PLAIN = frozenset({
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "slice"), ("builtins", "range"),
    ("builtins", "complex"), ("builtins", "object"), ("builtins", "bytearray"),
    ("builtins", "dict"), ("builtins", "list"), ("builtins", "int"), ("builtins", "float"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("copyreg", "_reconstructor"),
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"),
    ("torch._C._nn", "gelu"), ("torch", "relu"), ("torch", "tanh"), ("torch", "sigmoid"),
})  # fmt: skip
