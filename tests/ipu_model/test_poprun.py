"""``python -m app.ipu_model poprun``: what becomes of poprun's options."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

from app.ipu_model import poprun

PROGRAM = """
import os, sys
import popdist
print(popdist.getInstanceIndex(), popdist.getNumInstances(), popdist.getNumLocalReplicas(),
      popdist.getNumIpusPerReplica(), os.environ["IPU_MODEL_FABRIC"].count(":"), sys.argv[1:])
"""
FAILING = """
import popdist, sys, time
if popdist.getInstanceIndex() == 1:
    sys.exit(7)
time.sleep(600)
"""


TOLD = """
import os, signal, time
def told(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the first to end has the others told again
    os.write(1, b"told\\n")  # in one piece, as two write into one pipe
    os._exit(9)
signal.signal(signal.SIGTERM, told)
os.write(1, b"ready\\n")
time.sleep(600)
"""


def program(tmp_path: Path, text: str) -> str:
    path = tmp_path / "program.py"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_every_instance_gets_its_index_and_its_share(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--num-instances=2", "--num-replicas", "6", "--ipus-per-replica=4"]
    of_a_pod = ["-v", "--vipu-partition=p", "--numa-aware=yes", "--mpi-global-args=--tag-output"]
    words = [*options, *of_a_pod, "python3", program(tmp_path, PROGRAM), "--lr", "0.1"]
    assert poprun.run(words) == 0
    printed = sorted(capfd.readouterr().out.splitlines())
    assert printed == [f"{index} 2 3 4 1 ['--lr', '0.1']" for index in (0, 1)]


def test_only_the_output_of_one_instance_is_shown_where_asked(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--num-instances=2", "--only-output-from-instance=1", program(tmp_path, PROGRAM)]
    assert poprun.run(words) == 0
    assert [line[:5] for line in capfd.readouterr().out.splitlines()] == ["1 2 1"]


def test_an_instance_that_fails_ends_the_others(tmp_path: Path) -> None:
    assert poprun.run(["--num-instances=2", program(tmp_path, FAILING)]) == 7


def test_a_launcher_that_is_told_to_stop_tells_every_instance(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "app.ipu_model", "poprun", "--num-instances=2"]
    launcher = subprocess.Popen(
        [*words, program(tmp_path, TOLD)], stdout=subprocess.PIPE, universal_newlines=True
    )
    assert launcher.stdout is not None
    assert [launcher.stdout.readline() for _ in range(2)] == ["ready\n"] * 2
    launcher.send_signal(signal.SIGTERM)
    said, _ = launcher.communicate(timeout=60)  # to the end of the instances, who hold the pipe
    assert (launcher.returncode, said) == (9, "told\n" * 2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--num-instances=2", "--num-replicas=3", "x.py"],
            "3: cannot be shared out evenly among 2",
        ),
        (["--host=far1,far2", "x.py"], "--host far1,far2: the IPU Model starts processes on this"),
        (["--num-instances=0", "x.py"], "every number must be at least 1"),
        (["--num-instances=2"], "names no program; give one"),
        (["--num-instance=2", "x.py"], "poprun: unrecognized arguments|unknown option|no such"),
    ],
)
def test_what_cannot_be_met_here_is_refused(words: List[str], message: str) -> None:
    with pytest.raises(poprun.PoprunError, match=message):
        poprun.run(words)


def test_a_program_runs_on_the_ipu_model_with_or_without_an_interpreter() -> None:
    ours = [sys.executable, "-m", "app.ipu_model", "train.py", "-x"]
    for interpreter in ([], ["python"], ["/usr/bin/python3.8"]):
        assert poprun._command([*interpreter, "train.py", "-x"]) == ours
    assert poprun._command(["python3", "-m", "train"]) == [*ours[:3], "-m", "train"]
