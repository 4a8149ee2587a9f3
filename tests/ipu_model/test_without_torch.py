"""Everything after tracing runs where there is no torch."""

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

PROGRAM = """
import importlib
import importlib.abc
import sys


class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name}: there is no torch here")
        return None


sys.meta_path.insert(0, Refuse())
try:
    import torch
except ImportError:
    pass
else:
    raise AssertionError("torch is not blocked")

for name in (
    "graph", "autodiff", "lowering", "cost.rules", "memory", "pipeline", "collectives", "target",
    "simulation", "report", "folding", "flops", "program",
):
    importlib.import_module(f"app.ipu_model.{name}")

from app.config import find_system
from app.ipu_model import report
from app.ipu_model.graph import Element, Graph, Role
from app.ipu_model.program import Execution
from app.ipu_model.simulation import simulate
from app.ipu_model.target import Target

graph, shape = Graph(), (2, 16, 8, 8)
x = graph.tensor(shape, Element.HALF, Role.INPUT, "x").id
graph.inputs.append(x)
for stage in (0, 1):
    place = {"scope": f"block{stage}", "stage": stage, "ipu": stage}
    weight = graph.tensor((16, 16, 1, 1), Element.HALF, Role.PARAMETER, f"weight{stage}").id
    y, z = graph.tensor(shape, Element.HALF).id, graph.tensor(shape, Element.HALF).id
    conv = {"stride": (1, 1), "dilation": (1, 1), "padding": ((0, 0), (0, 0)), "groups": 1}
    graph.add("conv", (x, weight), (y,), conv, **place)
    graph.add("unary", (y,), (z,), {"function": "silu"}, **place)
    x = z
mean, loss = graph.tensor((), Element.HALF).id, graph.tensor((), Element.HALF).id
axes = {"function": "mean", "axes": (0, 1, 2, 3), "keepdim": False}
graph.add("reduce", (x,), (mean,), axes, **place)
graph.add("identity_loss", (mean,), (loss,), {"reduction": "none"}, **place)
graph.outputs = [loss]

execution = Execution(micro_batch=2, gradient_accumulation=4, recomputation="pipeline")
found = simulate(graph, execution, Target.of(find_system("IPU-M2000")), "by-hand")
print(report.summary(found).splitlines()[0])
print(found.fits, found.stages, found.throughput_samples_per_s > 0)
report.write(found, sys.argv[1])
report.as_json_text(found)
assert "torch" not in sys.modules
assert "torchvision" not in sys.modules
"""


def test_a_graph_is_simulated_and_reported_without_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "report")],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    headline, figures = done.stdout.splitlines()
    assert headline == "by-hand: training on IPU-M2000 – simulated"
    assert figures == "True 2 True"
    assert (tmp_path / "report" / "index.html").is_file()
