"""The direction of dependencies, read off every file's imports."""

import ast
from pathlib import Path
from typing import Iterator, List, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("app", "datasets", "benchmarks")

BELOW_THE_TORCH_LINE = (
    "app.errors",
    "app.backend",
    "app.baseline",
    "app.cli",
    "app.diagnostics.moments",
    "app.diagnostics.results",
    "app.diagnostics.report",
    "app.__main__",
    "app.config",
    "app.planner",
    "app.plan",
    "app.pod",
    "app.pod_guide",
    "app.ipu_model.graph",
    "app.ipu_model.missing",
    "app.ipu_model.flops",
    "app.ipu_model.autodiff",
    "app.ipu_model.lowering",
    "app.ipu_model.target",
    "app.ipu_model.calibration",
    "app.ipu_model.cost",
    "app.ipu_model.memory",
    "app.ipu_model.pipeline",
    "app.ipu_model.program",
    "app.ipu_model.folding",
    "app.ipu_model.machine",
    "app.ipu_model.timing",
    "app.ipu_model.simulation",
    "app.ipu_model.collectives",
    "app.ipu_model.report",
)
FRONT_END = "app.ipu_model.poptorch"
# the parts of the front end, each on top of those before it
FRONT_END_PARTS = (
    ("_options", ("enums", "errors", "_logging")),
    ("_data", ("options",)),
    ("_graph", ("_options", "ops")),
    ("_optimizers", ("optim",)),
    ("_device", ()),
)
# what the simulation of a program needs of the rest of the IPU Model
SIMULATION = tuple(
    f"app.ipu_model.{name}"
    for name in (
        "collectives",
        "graph",
        "memory",
        "missing",
        "program",
        "report",
        "simulation",
        "target",
        "trace",
    )
) + ("app.config",)
MAY_IMPORT = {
    "app.errors": (),
    "app.backend": ("app.errors",),
    "app.baseline": ("app.errors", "app.ipu_model.calibration", "app.ipu_model.simulation"),
    "app.config": ("app.errors", "app.config"),
    "app.nets": ("app.errors", "app.config", "app.nets"),
    "app.ipu_model": ("app.errors", "app.config", "app.ipu_model"),
    "app.distributed": ("app.errors", "app.config", "app.pod", "app.sdk", "app.distributed"),
    "app.sdk": ("app.errors", "app.backend", "app.ipu_model"),
    "app.simulate": (
        "app.errors",
        "app.config",
        "app.ipu_model",
        "app.nets",
        "app.training",
        "datasets",
    ),
    "app.pod": ("app.errors", "app.config"),
    "app.pod_guide": (
        "app.errors",
        "app.backend",
        "app.config",
        "app.ipu_model",
        "app.pod",
        "app.simulate",
    ),
    "app.planner": ("app.config", "app.ipu_model", "app.planner"),
    "app.plan": (
        "app.errors",
        "app.backend",
        "app.config",
        "app.ipu_model",
        "app.planner",
        "app.plan",
        "app.simulate",
    ),
    "datasets": ("app.errors", "app.config", "datasets"),
    "app.diagnostics": (
        "app.errors",
        "app.config",
        "app.nets",
        "app.training",
        "app.diagnostics",
        "datasets",
    ),
    "app.diagnostics.moments": (),
    "app.diagnostics.results": ("app.config", "app.diagnostics.moments"),
    "app.diagnostics.report": (
        "app.errors",
        "app.diagnostics.moments",
        "app.diagnostics.report",
        "app.diagnostics.results",
    ),
    "app.training": (
        "app.errors",
        "app.backend",
        "app.config",
        "app.distributed",
        "app.nets",
        "app.sdk",
        "datasets",
        "app.training",
    ),
}

_below: List[str] = []
for _part, _beside in FRONT_END_PARTS:
    _below += [f"{FRONT_END}.{name}" for name in (_part, *_beside)]
    MAY_IMPORT[f"{FRONT_END}.{_part}"] = ("app.ipu_model.popart", *_below)
MAY_IMPORT[f"{FRONT_END}._device"] += SIMULATION


def _is_in(module: str, part: str) -> bool:
    return module == part or module.startswith(part + ".")


def _modules() -> List[Tuple[str, Path]]:
    found = []
    for part in PARTS:
        for path in sorted((ROOT / part).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found.append((name[: -len(".__init__")] if name.endswith(".__init__") else name, path))
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: write the import absolutely"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _top_level_imports(path: Path) -> Iterator[str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            yield node.module


MODULES = _modules()


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_every_module_imports_only_what_stands_below_it(name: str, path: Path) -> None:
    for part, allowed in MAY_IMPORT.items():
        if not _is_in(name, part):
            continue
        own = [i for i in _imports(path) if i.split(".")[0] in PARTS and i != "app"]
        wrong = [i for i in own if not any(_is_in(i, a) or _is_in(a, i) for a in allowed)]
        assert not wrong, f"{name} imports {wrong}"


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_nothing_below_the_torch_line_imports_torch(name: str, path: Path) -> None:
    if any(_is_in(name, part) for part in BELOW_THE_TORCH_LINE):
        imported = {i.split(".")[0] for i in _top_level_imports(path)}
        assert not imported & {"torch", "torchvision"}


@pytest.mark.parametrize(("name", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_the_sdk_is_imported_in_one_module_and_horovod_in_one_part(name: str, path: Path) -> None:
    imported = {i.split(".")[0] for i in _imports(path)}
    if name != "app.sdk":
        assert not imported & {"poptorch", "popart", "popdist", "poplar"}
    if not _is_in(name, "app.distributed"):
        assert "horovod" not in imported


def test_only_the_request_for_a_plan_is_beyond_the_torch_line() -> None:
    """Everything else of a plan that is remembered must load without torch."""
    for name, path in MODULES:
        if _is_in(name, "app.plan") and name != "app.plan.request":
            assert "app.simulate" not in _imports(path), name
            assert "app.plan.request" not in _top_level_imports(path), name


def test_the_walk_reaches_every_part() -> None:
    names = [name for name, _ in MODULES]
    for part in MAY_IMPORT:
        assert any(_is_in(name, part) for name in names), part
