"""Whole PopTorch programs, in the styles of its user guide and tutorials, run unmodified.

Each program checks its own numbers against plain torch or a closed form; here it only has to end
well. They say ``import poptorch`` and know nothing of this project.
"""

import multiprocessing
import os
import sys
from pathlib import Path
from typing import Dict, List

import pytest

PROGRAMS = Path(__file__).parent / "programs"
# A process that has imported what all programs import, and forks for each of them; current torch
# imports its compiler, which takes seconds, when the first optimiser is made.
FROM_SERVER = multiprocessing.get_context("forkserver")
FROM_SERVER.set_forkserver_preload(["torch._dynamo", "sklearn.datasets"])
TWO_REPLICAS = {
    "POPDIST_NUM_TOTAL_REPLICAS": "2",
    "POPDIST_NUM_LOCAL_REPLICAS": "2",
    "POPDIST_NUM_IPUS_PER_REPLICA": "1",
    "POPDIST_UNIFORM_REPLICAS_PER_INSTANCE": "1",
    "POPDIST_REPLICA_INDEX_OFFSET": "0",
    "POPDIST_LOCAL_INSTANCE_INDEX": "0",
    "OMPI_COMM_WORLD_SIZE": "1",
    "OMPI_COMM_WORLD_RANK": "0",
}
PIPELINED = ["--strategy", "pipelined", "--lr", "0.1"]  # ten times fewer updates
MORE_RUNS = [
    pytest.param("digits.py", PIPELINED, {}, id="digits-pipelined"),
    pytest.param("popdist_training.py", [], TWO_REPLICAS, id="popdist_training-two_replicas"),
]


def run(program: str, arguments: List[str], variables: Dict[str, str], folder: Path) -> None:
    """The whole life of a program's process: its output goes to a file, its end is its own."""
    output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(folder)
    for name in list(os.environ):
        if name.startswith(("POPDIST_", "POPTORCH_", "OMPI_")):
            del os.environ[name]
    os.environ.update(variables)
    from app.ipu_model.__main__ import main

    sys.exit(main([str(PROGRAMS / program), *arguments]))


@pytest.mark.parametrize(
    "program, arguments, variables",
    [pytest.param(path.name, [], {}, id=path.stem) for path in sorted(PROGRAMS.glob("*.py"))]
    + MORE_RUNS,
)
def test_program_runs_unmodified(
    program: str, arguments: List[str], variables: Dict[str, str], tmp_path: Path
) -> None:
    process = FROM_SERVER.Process(target=run, args=(program, arguments, variables, tmp_path))
    process.start()
    process.join(timeout=120)
    hangs = process.is_alive()
    process.kill()
    assert not hangs and process.exitcode == 0, (tmp_path / "output").read_text(encoding="utf-8")


def test_programs_do_not_know_the_project() -> None:
    for path in PROGRAMS.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "import poptorch" in text
        assert "from app" not in text
        assert "import app" not in text
