"""What a program asks of PopTorch and PopDist, read off its source.

Names imported from ``app.sdk`` are followed through attributes, calls, assignments, ``self`` and
annotations, as far as their type is certain. PopTorch's methods are in camel case and nothing else
here is: such a call on an object of unknown type is held against all types that have the name.
"""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterable, Iterator, List, NamedTuple, Set, Tuple, Union

from tests.sdk_api.table import Member, Table

_SDK = {
    "app.sdk.poptorch": "poptorch",
    "app.sdk.popdist": "popdist",
    "app.ipu_model.poptorch": "poptorch",
    "app.ipu_model.popdist": "popdist",
    "app.ipu_model.popdist.poptorch": "popdist.poptorch",
}
"""What can be imported, and the type that it is; the IPU Model's stand for the SDK's."""
_CAMEL = re.compile(r"[a-z]+[A-Z]\w*")


class Bound(NamedTuple):
    """A member that can be called, and whose it is."""

    owner: str
    name: str
    member: Member


Found = Union[str, Bound, None]
"""The type of an object, what can be called, or nothing that is known."""


@dataclass
class Reading:
    """What was found in a program."""

    uses: Set[str] = field(default_factory=set)
    """All names, as ``poptorch.Options.randomSeed``; calls end in ``()``."""
    problems: Set[str] = field(default_factory=set)
    """What the interface does not have, as ``file:line: ...``."""


def read(sources: Iterable[Tuple[str, str]], table: Table) -> Reading:
    """Read a program: pairs of a file's name and its text."""
    reading = Reading()
    trees = [(name, ast.parse(text)) for name, text in sources]
    returned: Dict[str, str] = {}
    for name, tree in trees:
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                kind = (
                    _Reader(name, table, Reading(), {}).reading_module(tree).annotated(node.returns)
                )
                if kind:
                    returned[node.name] = kind
    for name, tree in trees:
        _Reader(name, table, reading, returned).read(tree)
    return reading


def files(*roots: Path) -> Iterator[Tuple[str, str]]:
    """The Python files of folders."""
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            yield str(path), path.read_text(encoding="utf-8")


class _Reader(ast.NodeVisitor):
    def __init__(self, name: str, table: Table, reading: Reading, returned: Dict[str, str]) -> None:
        self._name = name
        self._table = table
        self._reading = reading
        self._returned = returned
        self._scopes: List[Dict[str, Found]] = [{}]
        self._of_self: List[Dict[str, Found]] = [{}]

    def reading_module(self, tree: ast.Module) -> "_Reader":
        """Know what the module imports."""
        for node in ast.walk(tree):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                self.visit(node)
        return self

    def read(self, tree: ast.Module) -> None:
        """Twice: what `self` holds may be set below where it is used."""
        self.reading_module(tree)
        quiet, self._reading = self._reading, Reading()
        classes = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                self._of_self.append({})
                self.generic_visit(node)
                classes[node.name] = self._of_self.pop()
        self._reading, self._classes = quiet, classes
        for statement in tree.body:
            self.visit(statement)

    # ---- what names mean

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            imported = _SDK.get(f"{node.module}.{alias.name}")
            if imported:
                self._scopes[-1][alias.asname or alias.name] = imported

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] in ("popdist", "poptorch"):
                name = alias.name if alias.asname else alias.name.split(".")[0]
                self._scopes[-1][alias.asname or name] = name

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._of_self.append(dict(getattr(self, "_classes", {}).get(node.name, {})))
        self.generic_visit(node)
        self._of_self.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._scopes.append({})
        arguments = node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            kind = self.annotated(argument.annotation) if argument.annotation else ""
            self._scopes[-1][argument.arg] = kind or None
        self.generic_visit(node)
        self._scopes.pop()

    def annotated(self, annotation: ast.expr) -> str:
        """The type that an annotation names; empty where it is none of the SDK's."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        found = self.infer(annotation)
        return found.member.result if isinstance(found, Bound) else ""

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        found = self.infer(node.value)
        for target in node.targets:
            self._assign(target, found)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if node.value is not None:
            self._assign(node.target, self.infer(node.value))

    def _assign(self, target: ast.expr, found: Found) -> None:
        if isinstance(target, ast.Name):
            self._scopes[-1][target.id] = found
        elif isinstance(target, ast.Attribute) and _is_self(target.value) and found is not None:
            self._of_self[-1][target.attr] = found

    # ---- what is asked

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self.infer(node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        self.infer(node)
        self.generic_visit(node)

    def infer(self, node: ast.expr) -> Found:
        """What an expression is, with what it asks noted on the way."""
        if isinstance(node, ast.Name):
            for scope in reversed(self._scopes):
                if node.id in scope:
                    return scope[node.id]
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.IfExp):
            return self.infer(node.body) or self.infer(node.orelse)
        return None

    def _attribute(self, node: ast.Attribute) -> Found:
        if _is_self(node.value) and node.attr in self._of_self[-1]:
            return self._of_self[-1][node.attr]
        owner = self.infer(node.value)
        if isinstance(owner, Bound) and owner.member.kind == "class":
            owner = owner.member.result  # a class's own members are its objects'
        if not isinstance(owner, str):
            return None
        self._note(node, self._table.unknown(owner, node.attr), f"{owner}.{node.attr}")
        member = self._table.find(owner, node.attr)
        if member is None:
            return None
        return (
            (member.result or None)
            if member.kind in ("module", "value")
            else Bound(owner, node.attr, member)
        )

    def _call(self, node: ast.Call) -> Found:
        called = self.infer(node.func)
        if isinstance(called, str):
            member = self._table.find(called, "__call__")
            if member is None:
                self._note(node, f"{called} cannot be called", "")
                return None
            called = Bound(called, "__call__", member)
        if isinstance(called, Bound):
            self._check(node, called)
            return called.member.result or None
        if isinstance(node.func, ast.Attribute):
            name = node.func.attr
            known = isinstance(self.infer(node.func.value), (str, Bound))  # and said so
            if _CAMEL.fullmatch(name) and not known:
                self._check_by_name(node, name)
            return self._returned.get(name)
        return self._returned.get(node.func.id) if isinstance(node.func, ast.Name) else None

    def _check(self, node: ast.Call, called: Bound) -> None:
        arguments = _arguments(node)
        problem = self._table.wrong_call(called.owner, called.name, *arguments)
        self._note(node, problem, f"{called.owner}.{called.name}()")

    def _check_by_name(self, node: ast.Call, name: str) -> None:
        owners = [owner for owner, members in self._table.types.items() if name in members]
        problems = [self._table.wrong_call(owner, name, *_arguments(node)) for owner in owners]
        if not owners:
            self._note(node, f"nothing of the SDK has {name!r}", "")
        elif all(problems):
            self._note(node, problems[0], "")
        else:
            self._note(node, "", f"?.{name}()")

    def _note(self, node: ast.expr, problem: str, use: str) -> None:
        if problem:
            self._reading.problems.add(f"{self._name}:{node.lineno}: {problem}")
        elif use:
            self._reading.uses.add(use)


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id == "self"


def _arguments(node: ast.Call) -> Tuple[int, List[str], bool]:
    """Positional arguments, names of the others, and whether there may be more."""
    positional = [each for each in node.args if not isinstance(each, ast.Starred)]
    keywords = [each.arg for each in node.keywords if each.arg is not None]
    open_ended = len(positional) < len(node.args) or len(keywords) < len(node.keywords)
    return len(positional), keywords, open_ended
