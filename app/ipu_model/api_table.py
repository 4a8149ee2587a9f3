"""Which of PopTorch's public names the IPU Model has: the table in docs/poptorch.md.

    python -m app.ipu_model.api_table

rewrites the table. The names and signatures come from ``poptorch_api.json`` (extracted from
graphcore/poptorch, SDK 3.4), the verdicts from ``api_verdicts.yml``, which is kept by hand.
"""

import json
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping

import yaml

_HERE = Path(__file__).parent
DOCUMENT = _HERE.parents[1] / "docs" / "poptorch.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
_WORDS = {"same": "same", "hardware": "only on hardware", "refused": "refused"}
_SUB_OBJECTS = ("Jit", "Precision", "Training", "_Popart", "Distributed", "TensorLocations")


@dataclass(frozen=True)
class PublicName:
    """A name PopTorch documents.

    Attributes:
        owner: what the table lists it under: ``poptorch``, ``Options.Training``, ...
        name: its last part.
        kind: enum, function, class, method, property, value, later value, exception, environment
            or operator.
        contract: the entry of ``poptorch_api.json``.
    """

    owner: str
    name: str
    kind: str
    contract: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def full(self) -> str:
        """Owner and name, as the verdicts call it."""
        return f"{self.owner}.{self.name}"


@dataclass(frozen=True)
class Verdict:
    """``same``, ``hardware`` (accepted and kept, but only an IPU would act on it) or ``refused``,
    and, if there is more to say, why."""

    kind: str
    why: str = ""

    def __str__(self) -> str:
        return _WORDS[self.kind] + (f": {self.why}" if self.why else "")


def read_api() -> Dict[str, Any]:
    """``poptorch_api.json``."""
    api: Dict[str, Any] = json.loads((_HERE / "poptorch_api.json").read_text(encoding="utf-8"))
    return api


def public_names() -> List[PublicName]:
    """All names, in the table's order. Constructors of private classes are not public."""
    api = read_api()
    names = [PublicName("poptorch", n, "enum", c) for n, c in api["enums"].items()]
    for name, contract in api["poptorch"].items():
        names.append(PublicName("poptorch", name, contract["kind"], contract))
    for name, contract in api["poptorch.exceptions"].items():
        exception = isinstance(contract, dict)
        if not any(known.name == name for known in names):
            names.append(PublicName("poptorch", name, "exception" if exception else "value"))
    for name, contract in api["poptorch"].items():
        names += _members(name, contract)
    names += _options(api)
    for name, contract in api["poptorch.optim"].items():
        names.append(PublicName("optim", name, "class", contract))
        names += _members(f"optim.{name}", contract)
    names.append(PublicName("poptorch", "PoplarExecutor", "class", api["poptorch.PoplarExecutor"]))
    names += _members("PoplarExecutor", api["poptorch.PoplarExecutor"])
    for module in ("profiling", "testing"):
        for name, contract in api[f"poptorch.{module}"].items():
            kind = "class" if "methods" in contract else "function"
            names.append(PublicName(module, name, kind, contract))
            names += _members(f"{module}.{name}", contract)
    names += [PublicName("environment", name, "environment") for name in api["environment"]]
    for schema in api["torch.ops.poptorch"]:
        name = schema.split("(", 1)[0]
        names.append(PublicName("torch.ops.poptorch", name, "operator", {"schema": schema}))
    return names


def _members(owner: str, contract: Mapping[str, Any], private: bool = False) -> List[PublicName]:
    methods = [
        PublicName(owner, name, "method", method)
        for name, method in contract.get("methods", {}).items()
        if not (private and name == "__init__")
    ]
    properties = contract.get("properties", {})
    return methods + [PublicName(owner, name, "property", p) for name, p in properties.items()]


def _options(api: Mapping[str, Any]) -> Iterator[PublicName]:
    yield PublicName("poptorch", "Options", "class", api["poptorch.Options"])
    yield from _members("Options", api["poptorch.Options"])
    for member in _members("Options", api["poptorch.options.OptionsDict(base)"], private=True):
        if member.name not in api["poptorch.Options"]["methods"]:
            yield member
    values = api["poptorch.Options.values"]
    for name, default in values["Options"].items():
        yield PublicName("Options", name, "value", {"default": default})
    later = values["created_later_by_setters"]
    for name in later["Options"]:
        yield PublicName("Options", name, "later value")
    for sub_object in _SUB_OBJECTS:
        owner = f"Options.{sub_object}"
        yield from _members(owner, api[f"poptorch.{owner}"], private=True)
        # what TensorLocations keeps is named like the method that sets it
        for name, default in values.get(sub_object, {}).items():
            yield PublicName(owner, name, "value", {"default": default})
    strategies = api["poptorch.options.execution_strategies(base)"]
    for public, base in (("PipelinedExecution", "_IExecutionStrategy"),
                         ("SerialPhasedExecution", "_IPhasedExecution")):  # fmt: skip
        own = api["poptorch"][public]["methods"]
        for member in _members(public, strategies[base], private=True):
            if member.name not in own:
                yield member


def verdicts() -> Dict[str, Verdict]:
    """The hand-kept verdict on every name, by full name."""
    text = (_HERE / "api_verdicts.yml").read_text(encoding="utf-8")
    result = {}
    for name, line in yaml.safe_load(text).items():
        kind, _, why = line.partition(", ")
        result[name] = Verdict(kind, why)
    return result


def render() -> str:
    """The table, between the two marks of the document."""
    known = verdicts()
    names = public_names()
    owners = list(dict.fromkeys(name.owner for name in names))
    usable = sum(known[name.full].kind != "refused" for name in names)
    share = usable / len(names)
    lines = [
        BEGIN,
        "",
        f"{usable} of {len(names)} names ({share:.1%}) can be used.",
        "",
        "| of | names | on the IPU Model |",
        "|---|---|---|",
    ]
    for owner in owners:
        own = [name for name in names if name.owner == owner]
        own.sort(key=lambda name: (list(_WORDS).index(known[name.full].kind), known[name.full].why))
        for verdict, group in groupby(own, key=lambda name: known[name.full]):
            listed = ", ".join(f"`{name.name}`" for name in group)
            lines.append(f"| `{owner}` | {listed} | {verdict} |")
    return "\n".join([*lines, "", END])


def main() -> None:
    """Put the table into the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(before + render() + after, encoding="utf-8")


if __name__ == "__main__":
    main()
