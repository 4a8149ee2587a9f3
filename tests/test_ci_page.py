"""The page on continuous integration: what it shows is what is there, and what it says is so."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app.baseline import read_baseline
from app.cli import _parser

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs/ci.md").read_text(encoding="utf-8")
WORKFLOW = (REPOSITORY / "docs/ci/simulate.yml").read_text(encoding="utf-8")
EXAMPLE = REPOSITORY / "docs/ci/compiles.py"


def test_the_page_shows_workflow_and_example_whole() -> None:
    assert f"```yaml\n{WORKFLOW}```" in PAGE
    assert f"```python\n{EXAMPLE.read_text(encoding='utf-8')}```" in PAGE


def test_the_baseline_on_the_page_is_one(tmp_path: Path) -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "shown.json"
    path.write_text(shown, encoding="utf-8")
    again = tmp_path / "again.json"
    read_baseline(path).write(again)
    assert again.read_text(encoding="utf-8") == shown


def test_the_workflow_runs_commands_that_parse() -> None:
    workflow = yaml.safe_load(WORKFLOW)
    (job,) = workflow["jobs"].values()
    commands = [step["run"] for step in job["steps"] if "run" in step]
    install, simulate = (shlex.split(command.replace("${{ matrix.run }}", "RUN"))
                         for command in commands)  # fmt: skip
    assert install[:5] == ["python", "-m", "pip", "install", "-r"]
    checkout = job["steps"][1]["with"]["path"]
    assert (REPOSITORY / Path(install[5]).relative_to(checkout)).is_file()
    assert simulate[:3] == ["python", "-m", "app"]
    options = _parser().parse_args(simulate[3:])
    assert (options.verb, options.config) == ("simulate", Path("ipu/RUN.yml"))
    assert options.baseline == Path("ipu/RUN.json")
    assert job["env"]["PYTHONPATH"].endswith(f"/{checkout}")
    uploads = [step["with"] for step in job["steps"] if "upload" in step.get("uses", "")]
    assert [Path(upload["path"]) for upload in uploads] == [options.report]


def example(micro_batch: int) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "app.ipu_model", str(EXAMPLE), str(micro_batch)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.long
def test_a_program_that_fits_ends_with_0() -> None:
    done = example(16)
    assert (done.returncode, done.stdout) == (0, "micro-batch 16: fits (simulated)\n")


@pytest.mark.long
def test_a_program_that_does_not_fit_ends_with_1_and_what_the_page_shows() -> None:
    done = example(2048)
    assert (done.returncode, done.stdout) == (1, "")
    said = done.stderr[done.stderr.index("app.ipu_model.poptorch.errors.Error: ") :]
    assert f"```text\n{said}```" in PAGE
