"""Builds frozen dataclasses from YAML files and ``--set`` flags, and writes them back.

The annotations of a dataclass decide what its values may be. Types are exact, but for int -> float;
nothing is guessed and nothing repaired. Every refusal is a ``ConfigError`` that reads
``file:line: what is wrong, what was found; what to do``, with the flag in place of file and line
where a flag is at fault.
"""

import difflib
import math
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import (
    Any,
    Dict,
    Final,
    Iterable,
    List,
    Literal,
    Mapping,
    Sequence,
    Tuple,
    Type,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import yaml

from app.config.checks import FieldError
from app.config.hardware import System
from app.config.schema import Run
from app.config.yaml_source import (
    ListNode,
    MapNode,
    Node,
    Place,
    ScalarNode,
    apply_flag,
    parse_tree,
    plain_value,
    read_text,
    read_tree,
    reads_as_text,
)
from app.errors import ConfigError

T = TypeVar("T")

CONFIG_ROOT: Final = Path(__file__).resolve().parents[2] / "ipu_configs"

LIBRARIES: Final[Dict[type, str]] = {System: "systems"}
"""Sections that may be given by the name of a file, and the folder that holds such files."""

_REMEDIES: Final[Dict[type, str]] = {
    bool: "write true or false",
    int: "give a whole number",
    float: "give a finite number",
    str: "give a text",
}


def load_run(path: Union[str, Path], overrides: Sequence[str] = ()) -> Run:
    """The run in a file, after ``a.b=value`` overrides in their order."""
    return load_section(Run, path, overrides)


def load_system(path: Union[str, Path]) -> System:
    """The system in a file."""
    return load_section(System, path)


def find_system(name: str) -> System:
    """The shipped system of this name: a file's stem, or what published tables call it.

    ``"Bow Pod16"`` and ``"bow-pod16"`` are the same; upper and lower case do not matter.

    Raises:
        ConfigError: there is none.
    """
    folder = CONFIG_ROOT / LIBRARIES[System]
    files = {path.stem: path for path in sorted(folder.glob("*.yml"))}
    stem = name.lower().replace(" ", "-")
    if stem not in files:
        raise ConfigError(f"{folder}: holds no system '{name}'; {_hint(stem, files)}")
    return load_system(files[stem])


def load_text(text: str, name: str) -> Run:
    """The run in a string; ``name`` is the file that errors show and paths are relative to."""
    return _build(Run, parse_tree(text, name), "")


def load_section(cls: Type[T], path: Union[str, Path], overrides: Sequence[str] = ()) -> T:
    """Any dataclass from a file, after ``a.b=value`` overrides in their order."""
    tree = parse_tree(read_text(Path(path)), str(path))
    for flag in overrides:
        tree = apply_flag(tree, flag, Path(path).parent)
    return _build(cls, tree, "")


def dump(run: Run) -> str:
    """The run as YAML with every field and the system written out: ``load_text`` gives it back."""
    return dump_tree(asdict(run))


def dump_tree(tree: Mapping[str, Any], columns: float = math.inf) -> str:
    """Plain values as YAML that the loader reads as they are; lists are wrapped at ``columns``."""
    return yaml.dump(
        dict(tree),
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=columns,
    )


class _Dumper(yaml.SafeDumper):
    """Quotes every string that the loader would not take for a string."""


def _represent_text(dumper: _Dumper, text: str) -> yaml.Node:
    # Double quotes alone keep line breaks of every kind.
    bare = reads_as_text(text) and text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if bare else '"')


def _represent_tuple(dumper: _Dumper, items: Tuple[object, ...]) -> yaml.Node:
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=True)


_Dumper.add_representer(str, _represent_text)
_Dumper.add_representer(tuple, _represent_tuple)


def _build(cls: Type[T], node: Node, path: str) -> T:
    """An instance of ``cls``; ``path`` is its dotted key, empty for the whole file."""
    section = _section(cls, node, path)
    hints = get_type_hints(cls)
    for key, child in section.entries.items():
        if key not in hints:
            remedy = _hint(key, hints, path)
            raise ConfigError(f"{child.place}: unknown key '{_join(path, key)}'; {remedy}")
    _require_keys(cls, section, path)
    values: Dict[str, Any] = {
        key: _convert(hints[key], child, _join(path, key)) for key, child in section.entries.items()
    }
    try:
        return cls(**values)
    except FieldError as error:
        place = _deepest_place(section, error.field)
        raise ConfigError(f"{place}: '{_join(path, error.field)}' {error}") from error


def _section(cls: Type[Any], node: Node, path: str) -> MapNode:
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and cls in LIBRARIES:
        return read_tree(_referenced_file(LIBRARIES[cls], node, path), asked_from=node.place)
    if not isinstance(node, MapNode):
        remedy = "write its keys below it, indented, or leave it out"
        raise ConfigError(f"{node.place}: '{path}' must be a section, got {_found(node)}; {remedy}")
    return node


def _referenced_file(library: str, node: ScalarNode, path: str) -> Path:
    """The file that a section is given by: its path, or its name in the nearest library."""
    place, name = node.place, node.text
    if name.endswith(".yml"):
        # A shell completes paths from the working directory; a file means its neighbours.
        return (Path() if place.line is None else place.folder) / name
    files: Dict[str, Path] = {}
    for folder in _library_folders(library, place.folder.resolve()):
        for file in sorted(folder.glob("*.yml")):
            files.setdefault(file.stem, file)
    if name not in files:
        remedy = f"{_hint(name, sorted(files))} (or give a path that ends in .yml)"
        raise ConfigError(f"{place}: '{path}' names no file in {library}, got '{name}'; {remedy}")
    return files[name]


def _library_folders(library: str, folder: Path) -> List[Path]:
    """The library beside a file, those of its parents up to ``ipu_configs``, the repository's."""
    lineage = [folder, *folder.parents]
    names = [parent.name for parent in lineage]
    depth = names.index(CONFIG_ROOT.name) if CONFIG_ROOT.name in names else 0
    return [parent / library for parent in (*lineage[: depth + 1], CONFIG_ROOT)]


def _require_keys(cls: Type[Any], section: MapNode, path: str) -> None:
    for field in fields(cls):
        optional = field.default is not MISSING or field.default_factory is not MISSING
        if not optional and field.name not in section.entries:
            owner = f"section '{path}'" if path else "the file"
            raise ConfigError(f"{section.place}: {owner} lacks the key '{field.name}'; add it")


def _deepest_place(section: MapNode, dotted: str) -> Place:
    """Where a key stands, or the nearest section around a key that is not written."""
    node: Node = section
    for key in dotted.split("."):
        if not isinstance(node, MapNode) or key not in node.entries:
            break
        node = node.entries[key]
    return node.place


def _convert(kind: Any, node: Node, path: str) -> object:
    """The node as a value of the annotation ``kind``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and is_dataclass(kind):
        return _build(kind, node, path)
    if origin is Literal:
        return _choice(arguments, node, path)
    if origin is tuple and arguments[1:] == (...,):
        return _tuple(arguments[0], node, path)
    if origin is Union and len(arguments) == 2 and arguments[1] is type(None):
        if isinstance(node, ScalarNode) and node.value is None and node.text:
            return None
        return _convert(arguments[0], node, path)
    if kind in _REMEDIES:
        return _scalar(kind, node, path)
    raise TypeError(f"the loader has no rule for {kind}, the type of {path}")


def _scalar(kind: type, node: Node, path: str) -> object:
    if isinstance(node, ScalarNode):
        value = node.value
        if kind is float and type(value) is int:
            value = float(node.text)
        # `True` is an int to isinstance, so types are compared.
        if type(value) is kind and (not isinstance(value, float) or math.isfinite(value)):
            return value
    raise _wrong_type(kind.__name__, node, path, _scalar_remedy(kind, node))


def _scalar_remedy(kind: type, node: Node) -> str:
    if isinstance(node, ScalarNode):
        if kind is str and node.value is not None:
            return "quote it"
        if isinstance(node.value, str) and type(plain_value(node.text)) is kind:
            return "remove the quotes"
    return _REMEDIES[kind]


def _choice(choices: Tuple[object, ...], node: Node, path: str) -> object:
    if isinstance(node, ScalarNode):
        # `True in (1, 2)` holds, so types are compared too.
        if any(type(node.value) is type(choice) and node.value == choice for choice in choices):
            return node.value
        if node.text in choices:
            raise _wrong_type("str", node, path, "quote it")
    word = node.text if isinstance(node, ScalarNode) else ""
    raise ConfigError(f"{node.place}: '{path}' cannot be {_found(node)}; {_hint(word, choices)}")


def _tuple(kind: Any, node: Node, path: str) -> Tuple[object, ...]:
    if not isinstance(node, ListNode):
        raise _wrong_type("a list", node, path, "write it in brackets")
    return tuple(_convert(kind, item, f"{path}[{i}]") for i, item in enumerate(node.items))


def _wrong_type(wanted: str, node: Node, path: str, remedy: str) -> ConfigError:
    return ConfigError(f"{node.place}: '{path}' must be {wanted}, got {_found(node)}; {remedy}")


def _found(node: Node) -> str:
    if isinstance(node, ListNode):
        return "a list"
    if isinstance(node, MapNode):
        return "a section"
    if node.value is None:
        return node.text or "nothing"
    shown = repr(node.value) if isinstance(node.value, str) else node.text
    return f"{shown} ({type(node.value).__name__})"


def _hint(word: str, known: Iterable[object], path: str = "") -> str:
    """The known name closest to ``word``, or all of them; ``path`` is put before it."""
    close = difflib.get_close_matches(word, [name for name in known if isinstance(name, str)], n=1)
    if close:
        return f"did you mean '{_join(path, close[0])}'?"
    return f"use one of {', '.join(str(name) for name in known)}"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
