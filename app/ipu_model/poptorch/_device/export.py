"""Executables on disk.

Real ones hold compiled machine code; these hold what is needed to compile again: the arguments,
and, if asked for, the model, its options and its optimiser. A file may come from a stranger, so it
is read without running code: tensors by torch's ``weights_only`` loader, objects by an unpickler
that makes nothing but modules, options, optimisers, functions of torch and plain values. Source:
graphcore/poptorch, python/_poptorch_data.py (SDK 3.4).
"""

import io
import pickle
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType
from typing import Any, Dict, List, Optional, Tuple

import torch

from app.ipu_model.poptorch._data.arguments import Arguments
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch.errors import Error
from app.ipu_model.poptorch.options import Options

_Pickled = Tuple[torch.Tensor, Dict[str, torch.Tensor]]
_FORMAT = "ipu-model-executable-2"


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
    parts: Dict[str, Any] = {"executable": (tuple(arguments), rng_state, training)}
    if model is not None:
        parts["model"] = (model, options.clone(), optimizer)
    pickled = {name: _pickled(part) for name, part in parts.items()}
    for name, part in pickled.items():
        try:
            _Unpickler(part, str(path)).load()
        except Error as error:
            logger.warning("The %s is saved, but cannot be loaded: %s", name, error.message)
    partial = path.with_name(path.name + ".partial")
    torch.save({"format": _FORMAT, "version": version, **pickled}, partial)
    partial.replace(path)


def read(filename: str, version: str, with_model: bool) -> SavedExecutable:
    """Load what ``write`` saved.

    Args:
        filename: the file.
        version: the one that must have written it.
        with_model: also make the model, its options and its optimiser, if they were exported.

    Raises:
        Error: another version wrote the file, or it is not an executable.
    """
    path = Path(filename)
    if path.is_dir():
        path = path / "model.poptorch"
    if not _is_plain_archive(path):
        raise Error(f"{path}: not an executable of the IPU Model; save it with compileAndExport.")
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
    arguments, rng_state, training = _Unpickler(content["executable"], str(path)).load()
    model, options, optimizer = (
        _Unpickler(content["model"], str(path)).load()
        if with_model and "model" in content
        else (None, None, None)
    )
    return SavedExecutable(Arguments(*arguments), rng_state, training, model, options, optimizer)


def _is_plain_archive(path: Path) -> bool:
    """Whether torch up to 2.5 would keep to ``weights_only`` when it loads the file.

    It does not for its old tar format and for TorchScript programs (CVE-2025-32434), which it tells
    by the first bytes and by an entry's name.
    """
    content = path.read_bytes()
    return content.startswith(b"PK\x03\x04") and b"constants.pkl" not in content


def _pickled(value: Any) -> _Pickled:
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
        if isinstance(value, BuiltinFunctionType) and value.__name__ in _ACTIVATIONS:
            return ("function", value.__name__, False)  # pickle knows no home of torch's own
        if not isinstance(value, torch.Tensor):
            return None
        key = self._keys.setdefault(id(value), str(len(self._keys)))
        self.tensors[key] = value.detach()
        is_parameter = isinstance(value, torch.nn.Parameter)
        return ("parameter" if is_parameter else "tensor", key, value.requires_grad)


class _Unpickler(pickle.Unpickler):
    """Makes plain values, torch's and importable modules, and this package's own objects."""

    def __init__(self, part: _Pickled, where: str) -> None:
        objects, tensors = part
        super().__init__(io.BytesIO(bytes(objects.numpy())))
        self._tensors = tensors
        self._made: Dict[str, torch.Tensor] = {}
        self._where = where

    def persistent_load(self, pid: Any) -> Any:
        kind, key, requires_grad = pid
        if kind == "function" and key in _ACTIVATIONS:
            return getattr(torch, key)
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
            if issubclass(found, (torch.nn.Module, torch.optim.Optimizer)) or home.startswith(_OWN):
                return found
        elif home == module == "torch.nn.functional" or module == "torch._C._nn":
            return found
        raise Error(
            f"{self._where}: {module}.{name} is neither a module nor a plain value, and is not "
            "loaded; wrap the model yourself and call loadExecutable."
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


_FRONT_END = "app.ipu_model.poptorch."
# what executors hold; none of these classes does anything when it is made
_OWN = tuple(
    _FRONT_END + part
    for part in ("_data.arguments", "_optimizers.", "_options.", "blocks", "enums", "optim",
                 "options")
)  # fmt: skip
_PLAIN = frozenset({
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "slice"), ("builtins", "range"),
    ("builtins", "complex"), ("builtins", "object"), ("builtins", "bytearray"),
    ("builtins", "dict"), ("builtins", "list"), ("builtins", "int"), ("builtins", "float"),
    ("collections", "OrderedDict"), ("collections", "defaultdict"), ("copyreg", "_reconstructor"),
    ("torch", "Size"), ("torch", "device"), ("torch.serialization", "_get_layout"),
})  # fmt: skip
_ACTIVATIONS = frozenset({
    "abs", "celu", "cos", "erf", "exp", "log", "log_softmax", "relu", "selu", "sigmoid", "sin",
    "softmax", "square", "tanh",
})  # fmt: skip
