"""What the backend says to options when a model is compiled.

Python takes any name and value; the backend takes only those it knows, each of one type.

Source: graphcore/poptorch, poptorch/source/SessionOptionsParser.cpp,
popart_compiler/source/SessionOptions.cpp, popart_compiler/source/CompilerImpl.cpp (SDK 3.4).
"""

import numbers
from typing import Any, Collection, Iterable, Mapping

from app.ipu_model.poptorch._options import backend_keys
from app.ipu_model.poptorch.enums import ConnectionType
from app.ipu_model.poptorch.errors import Error, backend_error, graph_error

# handled by the front end, or together with another name
_NOT_FOR_THE_BACKEND = frozenset(
    ["anchored_tensors", "patterns_level", "compilation_progress_bar_fn"]
)
_LOCATIONS = (
    "location_activation",
    "location_weight",
    "location_optimizer",
    "location_accumulator",
)
_LOCATION_SETTINGS = frozenset(
    [
        "minElementsForOffChip",
        "minElementsForReplicatedTensorSharding",
        "onChip",
        "useReplicatedTensorSharding",
        "useIOTilesToLoad",
        "useIOTilesToStore",
    ]
)
_HIGHEST_PATTERN_LEVEL = 3
_HIGHEST_INSTRUMENTATION = 1


def validate(values: Mapping[str, Any]) -> None:
    """Check a dictionary of options as the backend does.

    Args:
        values: names and values, as ``Options.toDict()`` gives them.

    Raises:
        Error: an unknown name, a value of another type, or a number outside its enumeration.
    """
    for name, value in values.items():
        if name in _NOT_FOR_THE_BACKEND:
            continue
        if isinstance(value, bool):
            _check_known(name, "bool", backend_keys.BOOL)
        elif isinstance(value, float):
            _check_known(name, "floating point", backend_keys.DOUBLE)
        elif isinstance(value, int):
            _check_integer(name, value)
        elif isinstance(value, str):
            _check_known(name, "string", backend_keys.STRING)
        elif isinstance(value, (set, frozenset, list, tuple)):
            _check_members(name, value)
        elif isinstance(value, Mapping):
            _check_mapping(name, value, values)
        else:
            raise graph_error(f"Unknown value type {type(value)} for option {name}")


def check_processes(values: Mapping[str, Any]) -> None:
    """Refuse a process whose index is not among those of all processes.

    Args:
        values: as for :func:`validate`.

    Raises:
        Error: its replicas would be none of the global ones.
    """
    process, processes = values["distributed_process_id"], values["num_distributed_processes"]
    if process >= processes:
        replicas = values["replication_factor"]
        comparison = "larger than" if process > processes else "equal to"
        raise backend_error(
            f"Global replica offset: {process * replicas}, is {comparison} global replication "
            f"factor: {processes * replicas}"
        )


def check_offline_target(values: Mapping[str, Any]) -> None:
    """Refuse what cannot be combined with compiling for no device at all.

    Args:
        values: names and values, as ``Options.toDict()`` gives them.

    Raises:
        Error: an offline target together with the IPU Model, a device's number or cycle logging.
    """
    if values["connection_type"] != ConnectionType.Never:
        return
    if values.get("use_model", False):
        raise graph_error("ConnectionType.Never / poptorch.Options.useOfflineIpuTarget not "
                          "supported for the IPU model")  # fmt: skip
    if "ipu_id" in values:
        raise graph_error("Offline compilation targeting a specific id not supported")
    if values["instrumentWithHardwareCycleCounter"]:
        raise graph_error("Cycle count logging is only supported on actual IPU hardware.")


def refuse_unmodelled(popart: Mapping[str, Any], modelled: Collection[str]) -> None:
    """Refuse PopART options that would change results and that nobody acts upon.

    Args:
        popart: the values of ``Options._Popart.options``.
        modelled: names the caller acts upon.

    Raises:
        Error: another option than these was given a value that changes results.
    """
    for name, value in popart.items():
        if name in modelled:
            continue
        if name in backend_keys.DERIVED:
            raise Error(
                f'poptorch.Options()._Popart.set("{name}", ...) is not supported: PopTorch sets '
                "it from its own options; use those."
            )
        nothing = backend_keys.CHANGES_RESULTS.get(name, value)
        if value != nothing:
            raise Error(
                f'poptorch.Options()._Popart.set("{name}", {value!r}) is not supported: it '
                "changes results and is not modelled; leave it at its default."
            )


def _check_known(name: str, kind: str, wanted: str) -> None:
    if backend_keys.KINDS.get(name) != wanted:
        raise graph_error(f"Unknown {kind} option {name}")


def _check_integer(name: str, value: int) -> None:
    _check_known(name, "uint64", backend_keys.UINT64)
    if value < 0:
        raise graph_error(f"Value {value} for option {name} must not be negative")
    enumeration, highest = backend_keys.RANGES.get(name, ("", value))
    if value > highest:
        raise graph_error(f"Value for {enumeration} out of range")


def _check_members(name: str, members: Iterable[Any]) -> None:
    for member in members:
        _check_known(name, "set / vector", backend_keys.CONTAINER)
        if name == "hardwareInstrumentations" and not _is_instrumentation(member):
            raise graph_error("Value for Instrumentation out of range")


def _is_instrumentation(member: Any) -> bool:
    return str(member).isdigit() and int(member) <= _HIGHEST_INSTRUMENTATION


def _check_mapping(name: str, value: Mapping[Any, Any], values: Mapping[str, Any]) -> None:
    if name == "available_memory_proportion":
        for ipu, share in value.items():
            if not isinstance(share, numbers.Real):
                raise graph_error(f"The memory proportion of IPU {ipu} must be a number: {share!r}")
    elif name == "patterns":
        _check_patterns(value, values)
    elif name.startswith("location_"):
        _check_location(name, value)
    else:
        for _ in value:
            _check_known(name, "map", backend_keys.CONTAINER)


def _check_patterns(patterns: Mapping[Any, Any], values: Mapping[str, Any]) -> None:
    if "patterns_level" not in values:
        raise graph_error("PopART option 'patterns' should not be set without first setting "
                          "'patterns_level'.")  # fmt: skip
    level = values["patterns_level"]
    if not 0 <= level <= _HIGHEST_PATTERN_LEVEL:
        raise graph_error(f"Pattern level {level} must be from 0 to {_HIGHEST_PATTERN_LEVEL}")
    for pattern, enabled in patterns.items():
        if not isinstance(enabled, bool):
            raise graph_error(f"Pattern {pattern} must be switched with a bool, got {enabled!r}")


def _check_location(name: str, settings: Mapping[Any, Any]) -> None:
    for setting in settings:
        if name not in _LOCATIONS:
            raise graph_error(f"Unknown tensor location {name}")
        if setting not in _LOCATION_SETTINGS:
            raise graph_error(f"Unknown option '{setting}' for tensor location {name}")
