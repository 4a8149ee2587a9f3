"""PopTorch's public names: there, with the signatures of its sources, as docs/poptorch.md says."""

import enum
import importlib
import inspect
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest
import torch

from app.ipu_model import api_table, poptorch
from app.ipu_model.api_table import PublicName
from app.ipu_model.poptorch import Options

VERDICTS = api_table.verdicts()
NAMES = api_table.public_names()
USABLE = [name for name in NAMES if VERDICTS[name.full].kind != "refused"]
REFUSED = [name for name in NAMES if VERDICTS[name.full].kind == "refused"]
SOURCES = Path(api_table.__file__).parent

X = torch.zeros(2)
OPS = torch.ops.poptorch
REFUSED_CALLS: Dict[str, Tuple[Callable[[], Any], str]] = {
    "poptorch.custom_op": (
        lambda: poptorch.custom_op((X,), "Cube", "ai.graphcore", 1, (X,)),
        "poptorch.custom_op",
    ),
    "torch.ops.poptorch.custom_operation": (
        lambda: OPS.custom_operation([X], "Cube", "ai.graphcore", 1, 1, [X], ""),
        "poptorch.custom_op",
    ),
    "poptorch.ctc_beam_search_decoder": (
        lambda: poptorch.ctc_beam_search_decoder(X, X),
        "poptorch.ctc_beam_search_decoder",
    ),
    "torch.ops.poptorch.ctc_beam_search_decoder": (
        lambda: OPS.ctc_beam_search_decoder(X, X, 0, 9, 1),
        "poptorch.ctc_beam_search_decoder",
    ),
    "torch.ops.poptorch.start_for_loop": (lambda: OPS.start_for_loop([X]), "poptorch.for_loop"),
    "torch.ops.poptorch.end_for_loop": (
        lambda: OPS.end_for_loop([X], [X], 1),
        "poptorch.for_loop",
    ),
    "torch.ops.poptorch.start_if_block": (lambda: OPS.start_if_block(X), "poptorch.cond"),
    "torch.ops.poptorch.start_else_block": (lambda: OPS.start_else_block([X]), "poptorch.cond"),
    "torch.ops.poptorch.end_if_block": (lambda: OPS.end_if_block([X], X), "poptorch.cond"),
}


def of_kind(*kinds: str) -> Any:
    chosen = [name for name in USABLE if name.kind in kinds]
    return pytest.mark.parametrize("name", chosen, ids=lambda name: name.full)


def owner_of(name: PublicName) -> Any:
    """The class (or, for values, the object) that the name belongs to."""
    options = Options()
    if name.owner == "poptorch":
        return poptorch
    if name.owner.startswith("Options"):
        found: Any = options
        for part in name.owner.split(".")[1:]:
            assert hasattr(found, part), f"{name.owner} is missing"
            found = getattr(found, part)
        return found if name.kind in ("value", "later value") else type(found)
    first = name.owner.split(".", 1)[0]
    if first in ("optim", "profiling", "testing"):
        found = importlib.import_module(f"app.ipu_model.poptorch.{first}")
        parts = name.owner.split(".")[1:]
    else:
        found, parts = poptorch, name.owner.split(".")
    for part in parts:
        assert hasattr(found, part), f"{name.owner} is missing"
        found = getattr(found, part)
    return found


def find(name: PublicName) -> Any:
    owner = owner_of(name)
    assert hasattr(owner, name.name), f"{name.full} is missing"
    return getattr(owner, name.name)


def described(parameters: List[Any]) -> List[str]:
    """One comparable line per parameter: name, kind, default."""
    lines = []
    for parameter in parameters:
        default = parameter.default
        shown = "" if default is inspect.Parameter.empty else f" = {default!r}"
        lines.append(f"{parameter.name} ({parameter.kind.name.lower()}){shown}")
    return lines


def expected(contract: Any) -> List[str]:
    lines = []
    for parameter in contract["params"]:
        shown = ""
        if "default" in parameter:
            shown = f" = {eval(parameter['default'], dict(vars(poptorch)))!r}"
        lines.append(f"{parameter['name']} ({parameter['kind']}){shown}")
    return lines


def test_every_name_has_a_verdict_and_no_verdict_is_about_nothing() -> None:
    assert [name.full for name in NAMES] == list(VERDICTS)
    assert {verdict.kind for verdict in VERDICTS.values()} <= {"same", "hardware", "refused"}
    assert all(verdict.why for verdict in VERDICTS.values() if verdict.kind != "same")


def test_the_document_has_the_present_table() -> None:
    assert api_table.render() in api_table.DOCUMENT.read_text(encoding="utf-8")


def test_at_least_95_per_cent_of_the_names_can_be_used() -> None:
    assert len(USABLE) >= 0.95 * len(NAMES)


@of_kind("enum")
def test_enumerations_have_the_members_and_values_of_poptorch(name: PublicName) -> None:
    found = find(name)
    assert {member.name: member.value for member in found} == name.contract["members"]
    assert issubclass(found, getattr(enum, name.contract["base"].split(".")[1]))


@of_kind("function")
def test_functions_have_the_signature_of_poptorch(name: PublicName) -> None:
    parameters = list(inspect.signature(find(name)).parameters.values())
    assert described(parameters) == expected(name.contract)


@of_kind("method")
def test_methods_have_the_signature_of_poptorch(name: PublicName) -> None:
    parameters = list(inspect.signature(find(name)).parameters.values())
    if "staticmethod" not in name.contract.get("decorators", []):
        parameters = parameters[1:]
    assert described(parameters) == expected(name.contract)


@of_kind("property")
def test_properties_can_be_set_where_poptorch_lets_them(name: PublicName) -> None:
    found = find(name)
    assert isinstance(found, property), f"{name.full} is not a property"
    assert (found.fset is not None) == name.contract["settable"]


@of_kind("class", "exception")
def test_classes_derive_from_the_same_public_bases(name: PublicName) -> None:
    bases = {base.__name__ for base in find(name).__mro__}
    wanted = [base.rsplit(".", 1)[-1] for base in name.contract.get("bases", [])]
    assert {base for base in wanted if not base.startswith("_")} <= bases


@of_kind("value")
def test_options_start_with_the_values_of_poptorch(name: PublicName) -> None:
    scope = {**vars(poptorch), "enums": poptorch}
    assert find(name) == eval(name.contract["default"], scope)


@of_kind("later value")
def test_values_of_setters_do_not_exist_before_the_setter_was_called(name: PublicName) -> None:
    assert not owner_of(name).exists(name.name)


@of_kind("environment")
def test_environment_variables_that_count_are_read(name: PublicName) -> None:
    if VERDICTS[name.full].kind == "same":
        code = "".join(path.read_text(encoding="utf-8") for path in SOURCES.glob("pop*/**/*.py"))
        assert f'"{name.name}"' in code, f"nothing reads {name.name}"


@of_kind("operator")
def test_operators_have_the_schema_of_poptorch(name: PublicName) -> None:
    assert hasattr(torch.ops.poptorch, name.name), f"{name.full} is missing"
    found = getattr(torch.ops.poptorch, name.name).default._schema
    assert str(found) == str(torch._C.parse_schema(f"poptorch::{name.contract['schema']}"))


@pytest.mark.parametrize("name", REFUSED, ids=lambda name: name.full)
def test_refused_names_are_absent_or_say_that_they_are_refused(name: PublicName) -> None:
    if name.full in REFUSED_CALLS:
        call, text = REFUSED_CALLS[name.full]
        with pytest.raises(poptorch.Error, match=text):
            call()
    else:
        assert VERDICTS[name.full].why.startswith("absent")
        assert not hasattr(owner_of(name), name.name)


def test_exceptions_form_the_tree_of_poptorch() -> None:
    assert issubclass(poptorch.Error, Exception)
    assert issubclass(poptorch.RecoverableError, poptorch.Error)
    assert issubclass(poptorch.UnrecoverableError, poptorch.Error)
    assert not issubclass(poptorch.ConfigFileError, poptorch.Error)
    for attribute in ("type", "message", "location"):
        assert hasattr(poptorch.Error("message"), attribute)


def test_all_public_names_of_the_package_are_exported() -> None:
    in_package = {name.name for name in USABLE if name.owner == "poptorch" and "." not in name.name}
    assert in_package <= set(poptorch.__all__)


def test_everything_exported_exists() -> None:
    assert [name for name in poptorch.__all__ if not hasattr(poptorch, name)] == []
