"""Arguments of a call: binding to ``forward``, comparison with those of the compilation, slicing.

Source: graphcore/poptorch, python/_args_parser.py (SDK 3.4).
"""

import inspect
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Sequence, Tuple

import torch

from app.ipu_model.poptorch.errors import Error

_RECOMPILE = (
    "\nThis error occurred because the inputs passed at runtime don't match the inputs used to "
    "compile the model.\nTo recompile the model for the new inputs create a new inferenceModel / "
    "trainingModel wrapper or call destroy() on the current one and try again."
)
_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Arguments(NamedTuple):
    """A call's arguments, each under the name ``forward`` gives it."""

    positional: Tuple[Any, ...]
    names: Tuple[str, ...]
    named: Dict[str, Any]

    def map_tensors(self, function: Callable[[torch.Tensor], Any]) -> "Arguments":
        """The same structure with ``function`` applied to every tensor."""
        return Arguments(
            map_tensors(self.positional, function), self.names, map_tensors(self.named, function)
        )

    def tensors(self) -> List[torch.Tensor]:
        """All tensors, in order."""
        found: List[torch.Tensor] = []
        self.map_tensors(found.append)
        return found


def map_tensors(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Apply ``function`` to every tensor of nested tuples, lists, dicts and named tuples."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(v, function) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(v, function) for v in value)
    if isinstance(value, Mapping):
        return {key: map_tensors(v, function) for key, v in value.items()}
    return value


class ArgumentParser:
    """Binds arguments as ``forward``'s signature says."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._parameters = list(inspect.signature(forward).parameters.values())

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """Name every argument and fill in defaults.

        Raises:
            AssertionError: too many, unknown or repeated arguments.
            Error: a mandatory one is missing.
        """
        self._check_names(args, kwargs)
        positional: List[Any] = []
        names: List[str] = []
        named: Dict[str, Any] = {}
        after_variadic = False
        for index, parameter in enumerate(self._parameters):
            name = parameter.name
            if parameter.kind is parameter.VAR_KEYWORD:
                taken = {p.name for p in self._parameters[:index]}
                named.update({k: v for k, v in kwargs.items() if k not in taken})
            elif parameter.kind is parameter.VAR_POSITIONAL:
                rest = args[index:]
                positional += rest
                names += [f"*{name}[{i}]" for i in range(len(rest))]
                after_variadic = True
            else:
                value = self._value(parameter, index, () if after_variadic else args, kwargs)
                if after_variadic or parameter.kind is parameter.KEYWORD_ONLY:
                    named[name] = value
                else:
                    positional.append(value)
                    names.append(name)
        return Arguments(tuple(positional), tuple(names), named)

    def _check_names(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        kinds = {p.kind for p in self._parameters}
        known = [p.name for p in self._parameters]
        by_position = [p for p in self._parameters if p.kind in _BY_POSITION]
        any_position = inspect.Parameter.VAR_POSITIONAL in kinds
        any_name = inspect.Parameter.VAR_KEYWORD in kinds
        given = len(args) + len(kwargs)
        assert (any_position or len(args) <= len(by_position)) and (
            any_position or any_name or given <= len(known)
        ), f"Too many arguments provided: expected {known} ({len(known)}) but got {given}"
        for name in kwargs:
            assert any_name or name in known, (
                f"{name} is not a valid parameter. Allowed values are {known}"
            )

    @staticmethod
    def _value(
        parameter: inspect.Parameter, index: int, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        name = parameter.name
        if index < len(args):
            assert name not in kwargs, f"Parameter {name} was passed more than once"
            return args[index]
        if name in kwargs:
            return kwargs[name]
        if parameter.default is parameter.empty:
            raise Error(f"Mandatory parameter {name} missing")
        return parameter.default


def check_same(compiled: Arguments, given: Arguments) -> None:
    """Compare a call's arguments with those the executable was compiled for.

    Raises:
        Error: the first difference.
    """
    expected, found = len(compiled.positional), len(given.positional)
    if expected != found:
        raise Error(
            f"Number of positional arguments mismatch: expected {expected} arguments but got "
            f"{found}.{_RECOMPILE}"
        )
    for name, was, value in zip(compiled.names, compiled.positional, given.positional):
        _check_value(name, was, value)
    _check_mapping("named arguments", compiled.named, given.named, prefix=False)


def _check_value(name: str, compiled: Any, given: Any) -> None:
    if isinstance(compiled, torch.Tensor) and isinstance(given, torch.Tensor):
        if compiled.dtype != given.dtype:
            raise Error(f"Data type mismatch for {name}: expected {compiled.dtype} but got "
                        f"{given.dtype}.{_RECOMPILE}")  # fmt: skip
        if compiled.shape != given.shape:
            raise Error(f"Shape mismatch for {name}: expected {compiled.shape} but got "
                        f"{given.shape}.{_RECOMPILE}")  # fmt: skip
        return
    if type(compiled) is not type(given):
        raise Error(f"Type mismatch for {name}: expected {type(compiled)} but got "
                    f"{type(given)}.{_RECOMPILE}")  # fmt: skip
    if isinstance(compiled, (tuple, list)):
        if len(compiled) != len(given):
            raise Error(f"Length mismatch for {name}: expected {len(compiled)} elements but got "
                        f"{len(given)}.{_RECOMPILE}")  # fmt: skip
        for index, (was, value) in enumerate(zip(compiled, given)):
            _check_value(f"{name}[{index}]", was, value)
    elif isinstance(compiled, Mapping):
        _check_mapping(name, compiled, given, prefix=True)
    elif compiled != given:
        raise Error(f"Value mismatch for {name}: expected {compiled} but got {given}.{_RECOMPILE}")


def _check_mapping(
    name: str, compiled: Mapping[str, Any], given: Mapping[str, Any], prefix: bool
) -> None:
    extra, missing = sorted(set(given) - set(compiled)), sorted(set(compiled) - set(given))
    if extra or missing:
        details = []
        if extra:
            details.append("Unexpected arguments: " + ", ".join(extra))
        if missing:
            details.append("Missing arguments: " + ", ".join(missing))
        raise Error(f"Keys mismatch for {name}: {'. '.join(details)}.{_RECOMPILE}")
    for key, was in compiled.items():
        _check_value(f"{name}[{key}]" if prefix else key, was, given[key])


def check_divisible(arguments: Arguments, micro_batches: int) -> None:
    """Every tensor's first dimension must hold whole micro-batches.

    Raises:
        AssertionError: it does not.
    """
    for tensor in arguments.tensors():
        size = tensor.shape[0] if tensor.dim() else 1
        assert size % micro_batches == 0, (
            f"Invalid batch dimension: In the input {tuple(tensor.shape)}, the batch dimension "
            f"({size}) must be a multiple of Options.deviceIterations * "
            f"Options.Training.gradientAccumulation * Options.replicationFactor = {micro_batches}"
        )


def micro_batch(arguments: Arguments, index: int, micro_batches: int) -> Arguments:
    """The ``index``-th of ``micro_batches`` equal parts of every tensor."""
    if micro_batches == 1:
        return arguments

    def part(tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.shape[0] // micro_batches
        return tensor[index * size : (index + 1) * size]

    return arguments.map_tensors(part)
