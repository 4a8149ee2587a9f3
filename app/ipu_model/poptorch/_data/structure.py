"""Nested arguments, outputs and batches: their tensors, and types of the program's own.

Source: graphcore/poptorch, python/_utils.py and python/__init__.py (SDK 3.4).
"""

import abc
import copy
from typing import Any, Callable, Dict, Iterator, List, Optional

import torch

from app.ipu_model.poptorch.errors import Error


class ICustomArgParser(abc.ABC):
    """Tells PopTorch which tensors an object of the program's own type holds."""

    @abc.abstractmethod
    def yieldTensors(self, struct: Any) -> Any:
        """Yield the tensors of ``struct``, always in the same order."""

    @abc.abstractmethod
    def reconstruct(self, original_structure: Any, tensor_iterator: Iterator[torch.Tensor]) -> Any:
        """An object like ``original_structure`` whose tensors come from ``tensor_iterator``, in
        the order of ``yieldTensors``."""


_parsers: Dict[type, ICustomArgParser] = {}


def registerCustomArgParser(arg_data_type: type, arg_parser: Optional[ICustomArgParser]) -> None:
    """Accept objects of a type, and of types derived from it, as arguments, outputs and batches.

    Args:
        arg_data_type: the type.
        arg_parser: finds their tensors; None takes an earlier registration back.
    """
    if arg_parser is None:
        _parsers.pop(arg_data_type, None)
    else:
        _parsers[arg_data_type] = arg_parser


class _GeometricParser(ICustomArgParser):
    """The tensors of a PyTorch Geometric graph, in the order of their sorted names."""

    def yieldTensors(self, struct: Any) -> Iterator[torch.Tensor]:
        return (struct[name] for name in self._names(struct))

    def reconstruct(self, original_structure: Any, tensor_iterator: Iterator[torch.Tensor]) -> Any:
        graph = copy.copy(original_structure)
        for name in self._names(original_structure):
            graph[name] = next(tensor_iterator)
        return graph

    @staticmethod
    def _names(graph: Any) -> List[str]:
        names = graph.keys() if callable(graph.keys) else graph.keys  # a property before PyG 2.4
        return [name for name in sorted(names) if isinstance(graph[name], torch.Tensor)]


def registerGeometricCustomArgParsers() -> None:
    """Accept PyTorch Geometric's ``Data`` and ``Batch`` objects as arguments.

    Raises:
        Error: PyTorch Geometric is not installed.
    """
    try:
        from torch_geometric.data import Batch, Data  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise Error(
            "registerGeometricCustomArgParsers: torch_geometric is not installed; install it, or "
            "pass tensors"
        ) from error
    for graph_type in (Data, Batch):
        registerCustomArgParser(graph_type, _GeometricParser())


def custom_parser(value: Any) -> Optional[ICustomArgParser]:
    """The parser registered for the value's type, or else for one it derives from."""
    if not _parsers:
        return None
    exact = _parsers.get(type(value))
    if exact is not None:
        return exact
    return next((parser for kind, parser in _parsers.items() if isinstance(value, kind)), None)


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Apply ``function`` to every tensor of nested tuples, lists, dicts, named tuples and
    registered types; the rest stays as it is."""
    if isinstance(value, torch.Tensor):
        return function(value)
    parser = custom_parser(value)
    if parser is not None:
        return parser.reconstruct(value, iter([function(t) for t in parser.yieldTensors(value)]))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, function) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(v, function) for v in value)
    if isinstance(value, dict):
        return _map_dict(value, function)
    return value


def _map_dict(value: Dict[Any, Any], function: Callable[[torch.Tensor], Any]) -> Dict[Any, Any]:
    twin = copy.copy(value)  # of its own class, and of its order
    for key, part in value.items():
        twin[key] = map_tensors(part, function)
    return twin


def tensors_of(value: Any) -> List[torch.Tensor]:
    """All tensors of a nested value, in the order of ``map_tensors``."""
    found: List[torch.Tensor] = []
    _collect(value, found)
    return found


def _collect(value: Any, found: List[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
        return
    parser = custom_parser(value)
    if parser is not None:
        found.extend(parser.yieldTensors(value))
    elif isinstance(value, (tuple, list)):
        for part in value:
            _collect(part, found)
    elif isinstance(value, dict):
        for part in value.values():
            _collect(part, found)


def rebuild(value: Any, tensors: Iterator[torch.Tensor]) -> Any:
    """The same structure with its tensors replaced by ``tensors``, in order."""
    return map_tensors(value, lambda _: next(tensors))
