"""The runner: PopTorch's names, Python's own way of running a script, child processes, errors."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

import pytest

from app.ipu_model import aliases

REPOSITORY = Path(__file__).parents[2]
NOTICE = "IPU Model: PopTorch simulated and computed on the CPU"


def run(folder: Path, *arguments: str, path: Optional[str] = None) -> Any:
    environment = {**os.environ, "PYTHONPATH": path or str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "app.ipu_model", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def write(folder: Path, name: str, text: str) -> str:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_every_name_is_the_one_module_of_the_ipu_model_and_others_are_missing(
    tmp_path: Path,
) -> None:
    program = write(tmp_path, "names.py", """
import importlib
import poptorch, poptorch.optim, poptorch.poptorch_core
import popart, popdist, popdist.poptorch
from poptorch.enums import OutputMode
from poptorch.options import Options
import app.ipu_model.poptorch as home
assert poptorch is home and popart is importlib.import_module("app.ipu_model.popart")
assert popdist is importlib.import_module("app.ipu_model.popdist")
assert popdist.poptorch is importlib.import_module("app.ipu_model.popdist.poptorch")
assert poptorch.optim.SGD is home.optim.SGD
assert OutputMode is home.OutputMode and Options is home.Options
assert poptorch.poptorch_core.Error is poptorch.Error
for name in ("enums", "options", "ops", "optim", "testing", "profiling", "_poplar_executor"):
    assert importlib.import_module("poptorch." + name) is getattr(poptorch, name), name
assert poptorch.__spec__.name == poptorch.__name__ == "app.ipu_model.poptorch"
assert importlib.reload(poptorch) is home
import poptorch.experimental
""")  # fmt: skip
    finished = run(tmp_path, program)
    assert finished.stderr.endswith(
        "ModuleNotFoundError: No module named 'poptorch.experimental'\n"
    ), finished.stderr


@pytest.mark.long
def test_an_installed_poptorch_does_not_win(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for package in ("poptorch", "popdist", "popart"):
        write(site, f"{package}/__init__.py", "raise SystemExit('the installed one was imported')")
    program = write(tmp_path, "program.py", """
import subprocess, sys
import poptorch
print(poptorch.__name__, flush=True)
subprocess.run([sys.executable, "-c", "import poptorch; print(poptorch.__name__)"], check=True)
""")  # fmt: skip
    finished = run(tmp_path, program, path=f"{site}{os.pathsep}{REPOSITORY}")
    assert finished.stdout == "app.ipu_model.poptorch\n" * 2, finished.stderr


def test_a_script_sees_what_python_would_show_it(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    write(folder, "neighbour.py", "VALUE = 3")
    program = write(folder, "program.py", """
import os, sys
import neighbour
assert __name__ == "__main__" and neighbour.VALUE == 3
assert os.path.samefile(__file__, sys.argv[0])
assert os.path.samefile(sys.path[0], os.path.dirname(__file__))
print(sys.argv[1:])
""")  # fmt: skip
    finished = run(tmp_path, program, "--epochs", "3", "-m", "--help")
    assert finished.stdout == "['--epochs', '3', '-m', '--help']\n", finished.stderr


def test_a_module_and_a_package_are_run_by_name(tmp_path: Path) -> None:
    write(tmp_path, "package/__init__.py", "")
    write(tmp_path, "package/train.py", "import sys; print(__name__, __package__, sys.argv[1:])")
    write(tmp_path, "package/__main__.py", "from . import train; print('package')")
    finished = run(tmp_path, "-m", "package.train", "-x", "1")
    assert finished.stdout == "__main__ package ['-x', '1']\n", finished.stderr
    assert run(tmp_path, "-m", "package").stdout.endswith("package\n")


@pytest.mark.long
def test_child_processes_have_the_same_packages(tmp_path: Path) -> None:
    program = write(tmp_path, "program.py", """
import os
import sys
import torch
import poptorch

class Data(torch.utils.data.Dataset):
    def __init__(self, parent, mode):
        self.parent, self.mode = parent, mode
    def __len__(self):
        return 1
    def __getitem__(self, index):
        assert os.getpid() != self.parent
        assert poptorch.__name__ == "app.ipu_model.poptorch"
        return int(self.mode is poptorch.OutputMode.Sum)

if __name__ == "__main__":
    data = Data(os.getpid(), poptorch.OutputMode.Sum)
    for method in ("fork", "forkserver", "spawn"):
        (same,) = torch.utils.data.DataLoader(data, num_workers=1, multiprocessing_context=method)
        print(method, same.item())
""")  # fmt: skip
    finished = run(tmp_path, program)
    assert finished.stdout == "fork 1\nforkserver 1\nspawn 1\n", finished.stderr
    assert finished.stderr.count(NOTICE) == 1


def test_the_programs_exit_code_is_the_runners(tmp_path: Path) -> None:
    assert run(tmp_path, write(tmp_path, "a.py", "import sys; sys.exit(7)")).returncode == 7
    stopped = run(tmp_path, write(tmp_path, "b.py", "raise SystemExit('out of coffee')"))
    assert stopped.returncode == 1
    assert "out of coffee" in stopped.stderr


def test_a_traceback_ends_in_the_users_code(tmp_path: Path) -> None:
    program = write(tmp_path, "faulty.py", "def f():\n    return 1 / 0\n\nf()\n")
    finished = run(tmp_path, program)
    assert finished.returncode == 1
    lines = finished.stderr.splitlines()
    assert lines[-1] == "ZeroDivisionError: division by zero"
    last = [line for line in lines if line.lstrip().startswith("File ")][-1]
    assert "faulty.py" in last and "line 2, in f" in last


def test_the_notice_says_that_nothing_ran_on_hardware(tmp_path: Path) -> None:
    finished = run(tmp_path, write(tmp_path, "empty.py", ""))
    assert finished.stdout == ""
    assert finished.stderr == f"{NOTICE}; no IPU is used\n"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["absent.py"], "absent.py: no such file; for a module use -m"),
        (["folder"], "folder: a folder without __main__.py cannot be run; name a file"),
        (["-m", "absent.module"], "-m absent.module: no such module, or a package without"),
        (["-m", "folder"], "-m folder: no such module, or a package without __main__"),
        (["-m"], "-m: neither a script nor -m MODULE; see --help"),
        (["--fast", "a.py"], "--fast: neither a script nor -m MODULE; see --help"),
    ],
)
def test_nothing_to_run_is_said_in_one_line(tmp_path: Path, arguments: Any, message: str) -> None:
    (tmp_path / "folder").mkdir()
    finished = run(tmp_path, *arguments)
    assert finished.returncode == 2
    assert finished.stderr.startswith(f"python -m app.ipu_model: {message}")
    assert len(finished.stderr.splitlines()) == 1


def test_a_fault_inside_the_module_is_not_mistaken_for_its_absence(tmp_path: Path) -> None:
    write(tmp_path, "package/__init__.py", "import no_such_dependency")
    write(tmp_path, "package/train.py", "")
    finished = run(tmp_path, "-m", "package.train")
    assert finished.returncode == 1
    assert "No module named 'no_such_dependency'" in finished.stderr


def test_a_package_called_app_must_be_renamed(tmp_path: Path) -> None:
    write(tmp_path, "project/app/__init__.py", "")
    finished = run(tmp_path, write(tmp_path, "project/program.py", ""))
    assert finished.returncode == 2
    assert "the program's own 'app' and the IPU Model's cannot both be imported" in finished.stderr


def test_an_installed_datasets_is_not_hidden_by_the_repositorys(tmp_path: Path) -> None:
    site = tmp_path / "site"
    write(site, "datasets.py", "WHOSE = 'installed'")
    program = write(tmp_path, "program.py", "import datasets; print(datasets.WHOSE)")
    finished = run(tmp_path, program, path=f"{REPOSITORY}{os.pathsep}{site}")
    assert finished.stdout == "installed\n", finished.stderr


def test_help_needs_no_torch(tmp_path: Path) -> None:
    finished = run(tmp_path, "--help")
    assert finished.returncode == 0
    assert "python -m app.ipu_model -m MODULE" in finished.stdout
    code = (
        "import sys, app.ipu_model.__main__ as runner; runner.main(['--help']);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY).returncode == 0
    assert run(tmp_path).returncode == 2


def test_homes_of_the_names() -> None:
    assert aliases.home_of("poptorch.optim") == "app.ipu_model.poptorch.optim"
    assert aliases.home_of("poptorch.poptorch_core") == "app.ipu_model.poptorch.errors"
    assert aliases.home_of("torch.optim") is None
    assert aliases.home_of("poptorch_extras") is None
