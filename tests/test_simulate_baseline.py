"""`simulate` with a baseline: exit codes, sentences, and what becomes of the file."""

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import app.simulate
from app.baseline import Baseline, Question, Tolerance, read_baseline
from app.cli import main
from app.config.loader import load_text
from app.errors import ConfigError
from app.ipu_model.memory import Lever, Misfit
from app.ipu_model.simulation import Simulation
from app.simulate import simulate_run
from tests.test_simulate import SMALL
from tests.training.tiny_run import set_flags


@pytest.fixture(autouse=True)
def backend_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb chooses the IPU Model in the environment: put back what stood there."""
    monkeypatch.setenv("IPU_APP_BACKEND", "auto")


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate_run(load_text(SMALL, "small"))


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch, simulation: Simulation) -> Callable[..., None]:
    """What the verb's next simulations come to: the small run, with changes."""

    def become(**changes: Any) -> None:
        now = replace(simulation, **changes)
        monkeypatch.setattr(app.simulate, "simulate_run", lambda run, mode: now)

    become()
    return become


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with a run file and nothing else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yml").write_text(SMALL)
    return tmp_path


WRITE = ["simulate", "--config", "my.yml", "--write-baseline", "ci/my.json"]
COMPARE = ["simulate", "--config", "my.yml", "--baseline", "ci/my.json"]
ACCEPT = "`python -m app simulate --config my.yml --write-baseline ci/my.json`"

MISFIT = Misfit(
    ipu=1,
    tile=7,
    resource="tile memory",
    demand_bytes=700 * 1024,
    bound_bytes=624 * 1024,
    terms=(),
    levers=(Lever("micro-batch 2 -> 1", 10 * 1024, False), Lever("less", 90 * 1024, True)),
)


def test_what_is_written_holds(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The real thing, simulated twice."""
    assert main(WRITE) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == (
        "baseline ci/my.json written: throughput may move by 2 %, memory of the fullest tile by "
        "2 %; commit it"
    )
    assert read_baseline(folder / "ci/my.json").question == Question("my.yml")
    assert main([*COMPARE, "--tolerance", "0"]) == 0
    out, err = capsys.readouterr()
    assert (out.splitlines()[-1], err) == (
        "baseline ci/my.json holds: throughput +0 %, memory of the fullest tile +0 %",
        "",
    )


def test_a_slower_run_leaves_with_4_and_one_sentence(
    folder: Path,
    simulated: Callable[..., None],
    simulation: Simulation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(WRITE) == 0
    written = (folder / "ci/my.json").read_bytes()
    capsys.readouterr()
    simulated(throughput_samples_per_s=simulation.throughput_samples_per_s * 0.75)
    assert main(COMPARE) == 4
    out, err = capsys.readouterr()
    assert out.startswith("small: training on IPU-M2000 – simulated\n")
    assert "baseline" not in out
    assert err.startswith("my.yml: simulated throughput fell from ")
    assert err.endswith(
        f" samples/s (-25 %, tolerance 2 %), against ci/my.json; mend the run, or accept it: "
        f"{ACCEPT}\n"
    )
    assert err.count("\n") == 1
    assert (folder / "ci/my.json").read_bytes() == written


def test_the_command_that_accepts_does(
    folder: Path,
    simulated: Callable[..., None],
    simulation: Simulation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = [*set_flags("seed=1", "data.mean=[0.1]"), "--mode", "training"]
    assert main([*WRITE, *flags, "--tolerance", "0.125"]) == 0
    simulated(throughput_samples_per_s=simulation.throughput_samples_per_s * 2)
    assert main([*COMPARE, *flags]) == 4
    (command,) = re.findall("`(.*)`", capsys.readouterr().err)
    assert main(shlex.split(command)[3:]) == 0
    assert main([*COMPARE, *flags]) == 0
    # writing anew keeps the tolerances of the file
    assert read_baseline(folder / "ci/my.json").tolerance == Tolerance(0.125, 0.125)


@pytest.mark.parametrize(
    ("arguments", "changes", "code", "verdict"),
    [
        (COMPARE, {}, 0, "holds"),
        (COMPARE, {"throughput_samples_per_s": 1.0}, 4, "moved"),
        (COMPARE, {"system": "Bow-2000"}, 4, "another question"),
        (COMPARE, {"sdk": "2.0.0"}, 4, "another model"),
        (COMPARE, {"misfit": MISFIT}, 3, "does not fit"),
        (WRITE, {}, 0, "written"),
        (WRITE, {"misfit": MISFIT}, 3, "does not fit"),
    ],
    ids=str,
)
def test_json_gains_one_key_and_renames_none(
    folder: Path,
    simulated: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    arguments: List[str],
    changes: Dict[str, Any],
    code: int,
    verdict: str,
) -> None:
    assert main(WRITE) == 0
    simulated(**changes)
    capsys.readouterr()
    main([*arguments[:3], "--json"])
    plain = json.loads(capsys.readouterr().out)
    assert main([*arguments, "--json"]) == code
    out, err = capsys.readouterr()
    content = json.loads(out)
    baseline = content.pop("baseline")
    assert content == plain
    assert (baseline["file"], baseline["verdict"]) == ("ci/my.json", verdict)
    assert err.count("\n") == (code != 0)
    if arguments is COMPARE:
        throughput = baseline["throughput_samples_per_s"]
        assert throughput["after"] == content["throughput_samples_per_s"]
        assert throughput["change"] == throughput["after"] / throughput["before"] - 1
        assert baseline["peak_tile_bytes"]["tolerance"] == 0.02
        assert bool(baseline["differences"]) == verdict.startswith("another")


def test_a_run_that_no_longer_fits_leaves_with_3_and_says_what_would_help(
    folder: Path,
    simulated: Callable[..., None],
    simulation: Simulation,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(WRITE) == 0
    capsys.readouterr()
    simulated(misfit=MISFIT)
    where = (
        "on IPU-M2000, simulated, IPU 1, tile 7 needs 700 KiB of 624 KiB tile memory (76 KiB too "
        "much); try less: saves 90 KiB, then it fits; ci/my.json "
    )
    assert main(COMPARE) == 3
    assert capsys.readouterr().err == (
        f"my.yml: no longer fits: {where}has {simulation.peak_tile_bytes:,} bytes on the fullest "
        "tile\n"
    )
    simulated(misfit=MISFIT, sdk="2.0.0")
    assert main(COMPARE) == 3
    assert capsys.readouterr().err == (
        f"my.yml: does not fit: {where}cannot tell why: SDK was 3.3.0 and is 2.0.0\n"
    )


def test_a_misfit_is_not_written_and_spoils_nothing(
    folder: Path, simulated: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(WRITE) == 0
    before = (folder / "ci/my.json").read_bytes()
    simulated(misfit=replace(MISFIT, levers=()))
    capsys.readouterr()
    assert main(WRITE) == 3
    assert capsys.readouterr().err == (
        "my.yml: does not fit: on IPU-M2000, simulated, IPU 1, tile 7 needs 700 KiB of 624 KiB "
        "tile memory (76 KiB too much); use less memory; ci/my.json is not written\n"
    )
    assert (folder / "ci/my.json").read_bytes() == before


def test_a_damaged_baseline_can_be_written_anew(
    folder: Path, simulated: Callable[..., None]
) -> None:
    (folder / "ci").mkdir()
    (folder / "ci/my.json").write_text('<<<<<<< HEAD\n  "throughput_samples_per_s": 1.0\n')
    assert main(WRITE) == 0
    assert main(COMPARE) == 0
    assert [path.name for path in (folder / "ci").iterdir()] == ["my.json"]


def test_a_file_that_never_was_a_baseline_is_not_replaced(
    folder: Path, simulated: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "notes.md").write_text("mine")
    assert main([*WRITE[:3], "--write-baseline", "notes.md"]) == 2
    assert capsys.readouterr().err == (
        "--write-baseline notes.md: is no baseline; name another file, or remove it\n"
    )
    assert (folder / "notes.md").read_text() == "mine"


REFUSALS = [
    (COMPARE, "ci/my.json: there is no baseline; write it with --write-baseline ci/my.json and "
              "commit it"),
    ([*WRITE[:3], "--write-baseline", "./my.yml"],
     "--write-baseline: is the file that is simulated; give another one"),
    ([*WRITE[:3], "--tolerance", "0.1"],
     "--tolerance: there is nothing to compare; give --baseline or --write-baseline too"),
    ([*WRITE, "--tolerance", "2"],
     "--tolerance: must be a share from 0 to below 1, got 2; 0.02 is 2 %"),
    ([*WRITE, "--tolerance", "nan"],
     "--tolerance: must be a share from 0 to below 1, got nan; 0.02 is 2 %"),
    ([*WRITE, "--tolerance=-0.1"],
     "--tolerance: must be a share from 0 to below 1, got -0.1; 0.02 is 2 %"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSALS)
def test_flags_that_cannot_be_used_are_one_sentence_before_any_work(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: List[str],
    message: str,
) -> None:
    monkeypatch.setattr(app.simulate, "simulate_run", None)
    assert main(arguments) == 2
    assert capsys.readouterr() == ("", f"{message}\n")
    assert [path.name for path in folder.iterdir()] == ["my.yml"]


def test_a_baseline_is_compared_or_written(folder: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main([*COMPARE, *WRITE[3:]])
    assert left.value.code == 2


@pytest.mark.parametrize("throughput", [float("inf"), 0.0])
def test_a_step_without_time_leaves_nothing_to_compare(
    simulation: Simulation, throughput: float
) -> None:
    idle = replace(simulation, throughput_samples_per_s=throughput, step_time_s=0.0)
    with pytest.raises(ConfigError, match=r"a step takes 0\.0 s, which leaves nothing to compare"):
        Baseline.of(idle, Question("my.yml"), Tolerance())
