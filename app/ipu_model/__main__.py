"""Run a PopTorch program on the IPU Model, unmodified.

    python -m app.ipu_model SCRIPT [ARGUMENT ...]
    python -m app.ipu_model -m MODULE [ARGUMENT ...]
    python -m app.ipu_model poprun [OPTION ...] [python3] SCRIPT [ARGUMENT ...]

`import poptorch`, `import popdist` and `import popart` give the program the IPU Model: PopTorch's
interface, simulated and computed on the CPU, even where the Poplar SDK is installed. Child
processes get it too. `poprun` starts several instances of it on this host and takes poprun's
options (`poprun --help`). The repository must be the current directory or on PYTHONPATH.

Exit code: the program's; 2 if there is no such script or module.
"""

import importlib.util
import runpy
import sys
from pathlib import Path
from typing import List

from app.ipu_model import aliases, poprun

_USAGE_ERROR = 2


class _CannotStart(Exception):
    """There is nothing to run; the message says why and what to do."""


def run_script(script: str, arguments: List[str]) -> None:
    """Run a file as ``python SCRIPT`` would."""
    path = Path(script)
    if not path.exists():
        raise _CannotStart(f"{script}: no such file; for a module use -m")
    if path.is_dir() and not (path / "__main__.py").exists():
        raise _CannotStart(f"{script}: a folder without __main__.py cannot be run; name a file")
    sys.argv = [script, *arguments]
    sys.path[0] = str((path if path.is_dir() else path.parent).resolve())
    _prepare()
    _announce()
    runpy.run_path(script, run_name="__main__")


def run_module(module: str, arguments: List[str]) -> None:
    """Run a module as ``python -m MODULE`` would."""
    sys.path[0] = str(Path.cwd())
    _prepare()
    if not _can_be_run(module):
        raise _CannotStart(f"-m {module}: no such module, or a package without __main__; "
                           "run from the folder its name starts in")  # fmt: skip
    sys.argv = [module, *arguments]
    _announce()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _prepare() -> None:
    hidden = Path(sys.path[0]) / "app"
    if any(path.exists() and not _is_ours(path) for path in (hidden, hidden.with_suffix(".py"))):
        raise _CannotStart(f"{hidden}: the program's own 'app' and the IPU Model's cannot both be "
                           "imported; rename it")  # fmt: skip
    aliases.put_on_path()
    aliases.install()


def _announce() -> None:
    print("IPU Model: PopTorch simulated and computed on the CPU; no IPU is used", file=sys.stderr)


def _is_ours(path: Path) -> bool:
    return path.resolve() == Path(__file__).resolve().parents[1]


def _can_be_run(module: str) -> bool:
    try:
        found = importlib.util.find_spec(module)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError as error:
        # a parent is missing; anything else is missing inside the program and deserves a traceback
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return False
        raise
    return found is not None


def main(arguments: List[str]) -> int:
    """Run what the arguments name; returns 2 if that is nothing, else the program decides."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__.strip())
        return 0 if arguments else _USAGE_ERROR
    try:
        if arguments[0] == "poprun":
            return poprun.run(arguments[1:])
        if arguments[0] == "-m" and len(arguments) > 1:
            run_module(arguments[1], arguments[2:])
        elif arguments[0].startswith("-"):
            raise _CannotStart(f"{arguments[0]}: neither a script nor -m MODULE; see --help")
        else:
            run_script(arguments[0], arguments[1:])
    except (_CannotStart, poprun.PoprunError) as error:
        print(f"python -m app.ipu_model: {error}", file=sys.stderr)
        return _USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
