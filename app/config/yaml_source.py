"""YAML as a tree in which every value knows its place; ``loader`` gives the tree its types.

Only a part of YAML is read. What makes a reader look elsewhere (anchors, aliases, ``<<``, tags,
several documents) and what can be misread (duplicate keys, leading zeros) is refused. Files share
values through ``extends: base.yml`` instead: mappings merge, everything else is replaced.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Tuple, Union

import yaml

from app.errors import ConfigError

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
_NON_FINITE = re.compile(r"[-+]?\.inf|\.nan", re.IGNORECASE)
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_NAMED = {"": None, "~": None, "null": None, "true": True, "false": False}

PlainValue = Union[None, bool, int, float, str]


@dataclass(frozen=True)
class Place:
    """Where a value stands: a line of a file or, without a line, a flag."""

    source: str
    line: Optional[int]
    folder: Path
    """Folder of the file; a flag has that of the file which it changes."""

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class ScalarNode:
    """One value. ``text`` is what was written without quotes, ``value`` what it means untyped."""

    place: Place
    text: str
    value: PlainValue


@dataclass(frozen=True)
class ListNode:
    """A sequence."""

    place: Place
    items: Tuple["Node", ...]


@dataclass(frozen=True)
class MapNode:
    """A mapping; the place of each entry is the line of its key."""

    place: Place
    entries: Dict[str, "Node"]


Node = Union[ScalarNode, ListNode, MapNode]


def plain_value(text: str) -> PlainValue:
    """What an unquoted scalar means: YAML 1.2's numbers in decimal, ``true``, ``false``, null."""
    if text in _NAMED:
        return _NAMED[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NON_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


def reads_as_text(text: str) -> bool:
    """Whether an unquoted scalar is taken for the string it spells."""
    return isinstance(plain_value(text), str) and not _LEADING_ZERO.fullmatch(text)


def read_tree(path: Path, asked_from: Optional[Place] = None) -> MapNode:
    """The mapping in a file, merged over what it extends; ``asked_from`` is what names the file."""
    return parse_tree(read_text(path, asked_from), str(path))


def read_text(path: Path, asked_from: Optional[Place] = None) -> str:
    """The text of a file, or ConfigError."""
    where = f"{path}:" if asked_from is None else f"{asked_from}: '{path}'"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{where} not found; check the path") from None
    except OSError as error:
        raise ConfigError(f"{where} cannot be read, {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not UTF-8 text; save it as UTF-8") from error


def parse_tree(text: str, name: str, extended_by: Tuple[Path, ...] = ()) -> MapNode:
    """The mapping in ``text``, which stands in the file ``name``, merged over what it extends."""
    path = Path(name)
    tree = _compose(text, Place(name, 1, path.parent))
    if not isinstance(tree, MapNode):
        found = "nothing" if tree is None else "a list" if isinstance(tree, ListNode) else "a value"
        where = name if tree is None else tree.place
        raise ConfigError(f"{where}: must hold keys and values, got {found}; write 'key: value'")
    entries = dict(tree.entries)
    extends = entries.pop("extends", None)
    own = replace(tree, entries=entries)
    return own if extends is None else merge(_read_base(extends, (*extended_by, path)), own)


def _read_base(extends: Node, chain: Tuple[Path, ...]) -> MapNode:
    place = extends.place
    if not isinstance(extends, ScalarNode) or not isinstance(extends.value, str):
        raise ConfigError(f"{place}: 'extends' must be one path; write extends: base.yml")
    path = place.folder / extends.value
    if path.resolve() in [link.resolve() for link in chain]:
        circle = " -> ".join(str(link) for link in (*chain, path))
        raise ConfigError(f"{place}: 'extends' runs in a circle, {circle}; remove one of them")
    return parse_tree(read_text(path, asked_from=place), str(path), chain)


def merge(base: MapNode, own: MapNode) -> MapNode:
    """``own`` over ``base``: mappings merge, everything else is replaced."""
    entries = dict(base.entries)
    for key, node in own.entries.items():
        old = entries.get(key)
        if isinstance(old, MapNode) and isinstance(node, MapNode):
            entries[key] = merge(old, node)
        else:
            entries[key] = node
    return replace(own, entries=entries)


def apply_flag(tree: MapNode, flag: str, folder: Path) -> MapNode:
    """The tree with ``a.b=value`` of ``--set`` merged in; sections that are missing are made."""
    place = Place(f"--set {flag}", None, folder)
    key, equals, text = flag.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ConfigError(f"{place}: names no key and value; write --set section.key=value")
    node = _compose(text, place) or ScalarNode(place, "", None)
    return _put(tree, parts, node)


def _put(section: MapNode, parts: Sequence[str], node: Node) -> MapNode:
    head, rest = parts[0], parts[1:]
    if rest:
        inner = section.entries.get(head, MapNode(node.place, {}))
        if not isinstance(inner, MapNode):
            raise ConfigError(
                f"{node.place}: '{head}' is a value at {inner.place}, not a section; "
                f"set '{head}' as a whole"
            )
        node = _put(inner, rest, node)
    return merge(section, MapNode(section.place, {head: node}))


def _compose(text: str, origin: Place) -> Optional[Node]:
    """The only document in ``text``, or None where there is nothing but comments."""
    try:
        _refuse_indirection(text, origin)
        # Nodes keep the text of their scalars, so PyYAML's own guesses at types do not matter.
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        raise _syntax_error(_on_line(line, origin), error.problem) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position)
        raise _syntax_error(_on_line(line, origin), error.reason) from error
    if len(documents) > 1:
        place = _at(documents[1], origin)
        raise ConfigError(f"{place}: a second document begins; keep one document per file")
    return _tree(documents[0], _at(documents[0], origin)) if documents else None


def _refuse_indirection(text: str, origin: Place) -> None:
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        anchor, tag = getattr(event, "anchor", None), getattr(event, "tag", None)
        if anchor is not None:
            raise ConfigError(
                f"{_at(event, origin)}: anchors and aliases are not read, found '{anchor}'; "
                "write the values out, or share a file through extends:"
            )
        if tag is not None:
            raise ConfigError(
                f"{_at(event, origin)}: tags are not read, found '{tag}'; "
                "write a plain value, or share a file through extends:"
            )


def _syntax_error(place: Place, problem: Optional[str]) -> ConfigError:
    return ConfigError(f"{place}: not valid YAML, {problem}; correct this line or those above it")


def _tree(node: yaml.Node, place: Place) -> Node:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place)
    if isinstance(node, yaml.SequenceNode):
        return ListNode(place, tuple(_tree(item, _at(item, place)) for item in node.value))
    assert isinstance(node, yaml.ScalarNode)  # YAML has no fourth kind
    text = node.value
    if node.style is not None:  # in quotes or a text block
        return ScalarNode(place, text, text)
    if _LEADING_ZERO.fullmatch(text):
        raise ConfigError(
            f"{place}: {text} has a leading zero, octal to some; drop the zero or quote it"
        )
    return ScalarNode(place, text, plain_value(text))


def _mapping(node: yaml.MappingNode, place: Place) -> MapNode:
    entries: Dict[str, Node] = {}
    for key, value in node.value:
        here = _at(key, place)
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{here}: a key must be a word, got a collection; write key: value")
        if key.value == "<<" and key.style is None:
            raise ConfigError(
                f"{here}: merge keys are not read, found '<<'; share a file through extends:"
            )
        if key.value in entries:
            raise ConfigError(
                f"{here}: duplicate key '{key.value}', found before at {entries[key.value].place}; "
                "remove one of them"
            )
        entries[key.value] = _tree(value, here)
    return MapNode(place, entries)


def _at(marked: Any, origin: Place) -> Place:
    """The place of a YAML node or event in the source of ``origin``."""
    return _on_line(marked.start_mark.line, origin)


def _on_line(index: int, origin: Place) -> Place:
    return origin if origin.line is None else replace(origin, line=index + 1)
