"""Arguments of a call: binding to ``forward``, comparison with those of the compilation, slicing.

Source: graphcore/poptorch, python/_args_parser.py (SDK 3.4).
"""

import inspect
from typing import Any, Callable, Dict, Iterable, List, Mapping, NamedTuple, Sequence, Tuple

import torch

from app.ipu_model.poptorch._data.structure import custom_parser, map_tensors, tensors_of
from app.ipu_model.poptorch._logging import logger
from app.ipu_model.poptorch.errors import Error

_RECOMPILE = (
    "\nThis error occurred because the inputs passed at runtime don't match the inputs used to "
    "compile the model.\nTo recompile the model for the new inputs create a new inferenceModel / "
    "trainingModel wrapper or call destroy() on the curent one and try again."
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
        return tensors_of((self.positional, self.named))


class ArgumentParser:
    """Binds arguments as ``forward``'s signature says."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        self._parameters = list(_signature(forward).parameters.values())
        self._warned_not_contiguous = False

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Arguments:
        """Name every argument, fill in defaults and make tensors contiguous.

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
        return self._contiguous(Arguments(tuple(positional), tuple(names), named))

    def _contiguous(self, arguments: Arguments) -> Arguments:
        if all(tensor.is_contiguous() for tensor in arguments.tensors()):
            return arguments
        if not self._warned_not_contiguous:
            self._warned_not_contiguous = True
            logger.warning(
                "At least one input tensor is not contiguous: non-contiguous tensors will be "
                "converted."
            )
        return arguments.map_tensors(torch.Tensor.contiguous)

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
                f"{name} is not a valid parameter.Allowed values are {known}"
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


def _signature(forward: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(forward)
    except ValueError:  # some functions written in C have none: they take what comes
        return inspect.signature(lambda *args, **kwargs: None)


def announce(arguments: Arguments) -> None:
    """Log what PopTorch logs about arguments when it compiles for them."""
    for value in (*arguments.positional, *arguments.named.values()):
        if _holds_dict(value):
            logger.warning(
                "Dicts as inputs only have partial support, they can be accessed using literal "
                "keys, but full Python functionality is not enabled. Consider changing dict "
                "inputs to tuple."
            )
    for tensor in arguments.tensors():
        if tensor.requires_grad:
            logger.warning(
                "Input tensor has requires_grad=True set. This tensor will be detached because "
                "backward pass via inputs is not supported."
            )


def _holds_dict(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return any(_holds_dict(part) for part in value)
    return isinstance(value, dict)


def to_device(tensor: torch.Tensor, float64: torch.dtype = torch.float32) -> torch.Tensor:
    """An argument as the device holds it: detached, float64 and bfloat16 as float32.

    A model of float64 may ask that ``float64`` stays. int64 stays, although the device has 32 bits:
    torch's kernels index with it, and no index of a tensor that fits an IPU needs more.
    """
    if tensor.requires_grad:
        tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.float()
    return tensor.to(float64) if tensor.dtype == torch.float64 else tensor


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
    _check_keys("named arguments", compiled.named, given.named)
    for name, was in compiled.named.items():
        _check_value(name, was, given.named[name])


def _check_value(name: str, compiled: Any, given: Any) -> None:
    if type(compiled) is not type(given):
        raise _mismatch("Type", name, type(compiled), type(given))
    if isinstance(compiled, torch.Tensor):
        if compiled.dtype != given.dtype:
            raise _mismatch("Data type", name, compiled.dtype, given.dtype)
        if compiled.shape != given.shape:
            raise _mismatch("Shape", name, compiled.shape, given.shape)
    elif isinstance(compiled, tuple):
        _check_elements(name, compiled, given)
    elif isinstance(compiled, dict):
        _check_keys(name, compiled, given)
        for key, was in compiled.items():
            _check_value(f"{name}[{key}]", was, given[key])
    elif isinstance(compiled, list) or custom_parser(compiled) is not None:
        # PopTorch compares these as flat sequences of tensors
        _check_elements(name, tensors_of(compiled), tensors_of(given))
        if isinstance(compiled, list) and _without_tensors(compiled) != _without_tensors(given):
            raise _mismatch("Value", name, compiled, given)
    elif compiled != given:
        raise _mismatch("Value", name, compiled, given)


def _check_elements(name: str, compiled: Sequence[Any], given: Sequence[Any]) -> None:
    if len(compiled) != len(given):
        raise Error(
            f"Length mismatch for {name}: expected {len(compiled)} elements but got "
            f"{len(given)}.{_RECOMPILE}"
        )
    for index, (was, value) in enumerate(zip(compiled, given)):
        _check_value(f"{name}[{index}]", was, value)


def _check_keys(name: str, compiled: Iterable[str], given: Iterable[str]) -> None:
    extra, missing = sorted(set(given) - set(compiled)), sorted(set(compiled) - set(given))
    details = []
    if extra:
        details.append("Unexpected arguments: " + ", ".join(extra))
    if missing:
        details.append("Missing arguments: " + ", ".join(missing))
    if details:
        raise Error(f"Keys mismatch for {name}: {'. '.join(details)}.{_RECOMPILE}")


def _mismatch(kind: str, name: str, compiled: Any, given: Any) -> Error:
    return Error(f"{kind} mismatch for {name}: expected {compiled} but got {given}.{_RECOMPILE}")


def _without_tensors(value: Any) -> Any:
    return map_tensors(value, lambda _: None)
