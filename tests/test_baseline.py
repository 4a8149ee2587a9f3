"""Baselines: what is written, what is read, and what counts as moved."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import pytest

import app.baseline
from app.baseline import Baseline, Question, Tolerance, compare, read_baseline
from app.errors import ConfigError
from app.ipu_model.calibration import calibration

BEFORE = Baseline(
    question=Question("ipu/my.yml", ("seed=1",)),
    system="IPU-POD16",
    mode="training",
    calibration="mk2",
    sdk="3.3.0",
    constants="0123456789ab",
    throughput_samples_per_s=1000.0,
    step_time_s=0.5,
    peak_tile_bytes=400_000,
    tolerance=Tolerance(0.02, 0.05),
)
TEXT = """{
  "calibration": {
    "constants": "0123456789ab",
    "name": "mk2",
    "sdk": "3.3.0"
  },
  "config": "ipu/my.yml",
  "figures": "simulated",
  "fits": true,
  "mode": "training",
  "peak_tile_bytes": 400000,
  "set": [
    "seed=1"
  ],
  "step_time_s": 0.5,
  "system": "IPU-POD16",
  "throughput_samples_per_s": 1000.0,
  "tolerance": {
    "peak_tile_bytes": 0.05,
    "throughput_samples_per_s": 0.02
  }
}
"""

# ---- the file


def test_the_file_is_this_text_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "made" / "my.json"
    BEFORE.write(path)
    assert path.read_text(encoding="utf-8") == TEXT
    assert read_baseline(path) == BEFORE


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "my.json"
    with pytest.raises(ConfigError) as refused:
        BEFORE.write(path)
    assert re.fullmatch(
        rf"{re.escape(str(path))}: cannot be written \([\w ]+\); name another file",
        str(refused.value),
    )


DAMAGES: Dict[str, Tuple[Callable[[str], str], str]] = {
    "a key too many": (
        lambda text: text.replace('"mode"', '"speed": 1, "mode"'),
        "unknown key 'speed'",
    ),
    "a key too many inside": (
        lambda text: text.replace('"name"', '"chip": "mk2", "name"'),
        "unknown key 'calibration.chip'",
    ),
    "a key too few": (lambda text: text.replace('  "fits": true,\n', ""), "'fits' is missing"),
    "a key too few inside": (
        lambda text: text.replace('"peak_tile_bytes": 0.05,', ""),
        "'tolerance.peak_tile_bytes' is missing",
    ),
    "a key twice": (
        lambda text: text.replace('"mode"', '"fits": true, "mode"'),
        "'fits' stands there twice",
    ),
    "a whole number for a truth": (
        lambda text: text.replace("true", "1"),
        "'fits' must be true or false, got 1",
    ),
    "a truth for a number": (
        lambda text: text.replace("0.5,", "true,"),
        "'step_time_s' must be a number, got true",
    ),
    "a broken byte": (
        lambda text: text.replace("400000", "400000.5"),
        "'peak_tile_bytes' must be a whole number, got 400000.5",
    ),
    "a number for a text": (
        lambda text: text.replace('"training"', "3"),
        "'mode' must be a text, got 3",
    ),
    "a list of numbers": (
        lambda text: text.replace('"seed=1"', "1"),
        "'set' must be a list of texts, got [1]",
    ),
    "a text for an object": (
        lambda text: re.sub(r'"tolerance": {[^}]*}', '"tolerance": "2 %"', text),
        "'tolerance' must be an object of JSON",
    ),
    "a list for all": (lambda text: "[]", "it must be an object of JSON"),
    "no number": (
        lambda text: text.replace("1000.0", "NaN"),
        "'throughput_samples_per_s' must be finite, got NaN",
    ),
    "beyond all numbers": (
        lambda text: text.replace("1000.0", "1e999"),
        "'throughput_samples_per_s' must be finite, got Infinity",
    ),
    "a whole number beyond floats": (
        lambda text: text.replace("1000.0", "1" + "0" * 400),
        "'throughput_samples_per_s' must be finite, got 10000000000000000000",
    ),
    "no throughput": (
        lambda text: text.replace("1000.0", "0"),
        "'throughput_samples_per_s' must be more than 0, got 0",
    ),
    "a misfit": (
        lambda text: text.replace("true", "false"),
        "'fits' must be true: a baseline is of a run that fits",
    ),
    "measured figures": (
        lambda text: text.replace('"simulated"', '"measured"'),
        "'figures' must be \"simulated\", got \"measured\"",
    ),
    "a tolerance in percent": (
        lambda text: text.replace("0.05", "5"),
        "'tolerance' must be a share from 0 to below 1, got 5",
    ),
    "conflict markers": (
        lambda text: text.replace('  "fits"', '<<<<<<< HEAD\n  "fits"'),
        "Expecting property name enclosed in double quotes: line 9 column 1 (char ",
    ),
    "nothing": (lambda text: "", "Expecting value: line 1 column 1 (char 0)"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: str) -> None:
    change, fault = DAMAGES[damage]
    damaged = change(TEXT)
    assert damaged != TEXT
    path = tmp_path / "my.json"
    path.write_text(damaged, encoding="utf-8")
    with pytest.raises(ConfigError) as refused:
        read_baseline(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: {fault}")
    assert message.endswith(f"; mend it, or write it anew with --write-baseline {path}")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.json"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"my\.json: cannot be read \(not UTF-8\); name a baseli"):
        read_baseline(path)
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory\)"):
        read_baseline(tmp_path)


def test_constants_are_told_apart_by_their_values_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = calibration("mk2")
    before = app.baseline._constants("mk2")
    scale = shipped.conv.conv_scale
    for changed, same in (
        (replace(scale, rows="others"), True),
        (replace(scale, value=1.0), False),
    ):
        constants = replace(shipped, conv=replace(shipped.conv, conv_scale=changed))
        monkeypatch.setattr(app.baseline, "calibration", lambda chip, now=constants: now)
        assert (app.baseline._constants("mk2") == before) is same
    monkeypatch.undo()
    assert app.baseline._constants("mk1") != before


# ---- what counts as moved


@pytest.mark.parametrize(
    ("throughput", "peak", "verdict"),
    [
        (1000.0, 400_000, "holds"),
        (980.0, 420_000, "holds"),  # exactly 2 % and 5 %
        (1020.0, 380_000, "holds"),
        (979.9, 400_000, "moved"),
        (1020.1, 400_000, "moved"),  # better is a change too
        (1000.0, 420_001, "moved"),
        (1000.0, 379_999, "moved"),
    ],
)
def test_a_figure_moves_beyond_its_own_tolerance_to_either_side(
    throughput: float, peak: int, verdict: str
) -> None:
    now = replace(BEFORE, throughput_samples_per_s=throughput, peak_tile_bytes=peak)
    assert compare(BEFORE, now).verdict == verdict


def test_a_given_tolerance_counts_in_place_of_the_files() -> None:
    now = replace(BEFORE, throughput_samples_per_s=950.0, peak_tile_bytes=410_000)
    assert compare(BEFORE, now, Tolerance(0.05, 0.05)).verdict == "holds"
    moved = compare(BEFORE, now, Tolerance(0.0, 0.0))
    assert [change.moved for change in moved.changes] == [True, True]
    assert compare(BEFORE, BEFORE, Tolerance(0.0, 0.0)).verdict == "holds"


def test_the_time_of_a_step_is_not_compared() -> None:
    assert compare(BEFORE, replace(BEFORE, step_time_s=5.0)).verdict == "holds"


OTHERS = [
    ({"question": Question("b.yml", ("seed=1",))}, "question", "config was my.yml and is b.yml"),
    ({"question": Question("my.yml")}, "question", "--set was seed=1 and is nothing"),
    ({"system": "C2"}, "question", "system was IPU-POD16 and is C2"),
    ({"mode": "inference"}, "question", "mode was training and is inference"),
    ({"calibration": "mk1"}, "model", "calibration was mk2 and is mk1"),
    ({"sdk": "2.0.0"}, "model", "SDK was 3.3.0 and is 2.0.0"),
    ({"constants": "cd"}, "model", "hash of constants was 0123456789ab and is cd"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "kind", "difference"), OTHERS, ids=lambda given: str(given)[:40]
)
def test_unlike_things_are_not_compared(change: Dict[str, Any], kind: str, difference: str) -> None:
    now = replace(BEFORE, throughput_samples_per_s=1.0, **change)
    found = compare(BEFORE, now)
    assert found.verdict == f"another {kind}"
    expected = {
        "question": f"my.json is the baseline of something else: {difference}; name the right one, "
        "or write it anew: `accept`",
        "model": "the IPU Model changed since my.json was written, which is not the program's "
        f"doing: {difference}; write it anew: `accept`",
    }
    said = found.sentence(Path("my.json"), "my.yml", "`accept`")
    assert said == f"my.yml: {expected[kind]}"


def test_the_folder_from_which_a_file_is_named_makes_no_difference() -> None:
    elsewhere = replace(BEFORE, question=Question("/elsewhere/ipu/my.yml", ("seed=1",)))
    assert compare(BEFORE, elsewhere).verdict == "holds"


SENTENCES = [
    (
        900.0, 440_000,
        "simulated throughput fell from 1,000 to 900 samples/s (-10 %, tolerance 2 %) and "
        "simulated memory of the fullest tile grew from 400,000 to 440,000 bytes (+10 %, "
        "tolerance 5 %), against my.json; mend the run, or accept it: `accept`",
    ),
    (
        1080.5, 400_000,
        "simulated throughput rose from 1,000 to 1080.5 samples/s (+8.05 %, tolerance 2 %), "
        "against my.json; better than it says, so accept it: `accept`",
    ),
    (
        1000.0, 200_000,
        "simulated memory of the fullest tile shrank from 400,000 to 200,000 bytes (-50 %, "
        "tolerance 5 %), against my.json; better than it says, so accept it: `accept`",
    ),
    (
        1100.0, 440_000,
        "simulated throughput rose from 1,000 to 1,100 samples/s (+10 %, tolerance 2 %) and "
        "simulated memory of the fullest tile grew from 400,000 to 440,000 bytes (+10 %, tolerance "
        "5 %), against my.json; mend the run, or accept it: `accept`",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("throughput", "peak", "sentence"), SENTENCES)
def test_the_sentence_names_figure_before_after_change_and_command(
    throughput: float, peak: int, sentence: str
) -> None:
    now = replace(BEFORE, throughput_samples_per_s=throughput, peak_tile_bytes=peak)
    said = compare(BEFORE, now).sentence(Path("my.json"), "my.yml", "`accept`")
    assert said == f"my.yml: {sentence}"
