"""Fitting constants: what is known is found again, on rows made up from a closed form."""

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Mapping

import numpy as np
import pytest

from app.ipu_model.calibration import Calibration, SdkCalibration, calibration
from benchmarks import calibrate
from benchmarks.calibrate import FITTED, _Case, _Fitter, main, with_constants
from tests.benchmarks import written

RELEASES = {"sdk_1": "1.0.0", "sdk_2_0": "2.0.0", "sdk_2_3": "2.5.0", "sdk_3": "3.3.0"}
ROW = {
    "id": "r18",
    "model": "ResNet-18",
    "norm": "BN",
    "mode": "inference",
    "system": "C600",
    "ipus": "1",
    "resolution": "32",
    "precision": "16.16",
    "sdk": "2.5",
    "throughput_img_s": "5000",
}


def constants_of(chosen: Calibration) -> Dict[str, float]:
    sections = (chosen.op, chosen.system)
    return {
        name: getattr(section, name).value
        for section in sections
        for name in FITTED
        if hasattr(section, name)
    }


def closed_form(
    weights: Mapping[str, float], execution: Any, target: Any, chosen: Calibration
) -> float:
    """A step of 1 and so much of every constant, in shares of its prior."""
    values = constants_of(chosen)
    step = 1 + sum(weights[name] * values[name] / FITTED[name] for name in FITTED)
    return 1 / (step * chosen.sdk.scale(execution.sdk))


@pytest.fixture
def in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "throughput_samples_per_s", closed_form)


def cases(
    constants: Mapping[str, float], sdk: Mapping[str, float], count: int, blind_to: str = ""
) -> List[_Case]:
    """Rows whose published figures follow from known constants."""
    random = np.random.default_rng(0)
    generations = sorted(sdk)
    target: Any = SimpleNamespace(calibration_name="mk2")
    truth = with_constants(calibration("mk2"), {**constants, **sdk})
    found = []
    for index in range(count):
        weights: Any = {name: 2 * float(random.random()) ** 3 for name in FITTED}
        weights.update(dict.fromkeys([blind_to] if blind_to else [], 0.0))
        execution: Any = SimpleNamespace(sdk=RELEASES[generations[index % len(generations)]])
        published = closed_form(weights, execution, target, truth)
        size = f"B{index % 5}"
        found.append(_Case(f"row{index}", size, weights, execution, target, published))
    return found


@pytest.mark.usefixtures("in_closed_form")
def test_known_constants_are_found_again() -> None:
    factors = (1.4, 0.8, 1.3, 0.7, 1.2, 0.75, 1.25)
    known = {name: factor * prior for (name, prior), factor in zip(FITTED.items(), factors)}
    sdk = {"sdk_2_0": 1.2, "sdk_3": 0.9}
    fitted, left_out = _Fitter(cases(known, sdk, 80)).fit()
    assert list(fitted.constants) == list(FITTED)
    for name, value in known.items():
        assert fitted.constants[name] == pytest.approx(value, rel=0.1), name
    assert fitted.sdk == pytest.approx(sdk, rel=0.05)
    assert np.abs(fitted.log_errors).max() < 0.03
    assert np.abs(left_out).max() < 0.06
    assert left_out.shape == fitted.log_errors.shape == (80,)


@pytest.mark.usefixtures("in_closed_form")
def test_rows_that_agree_with_the_priors_leave_them() -> None:
    fitted, left_out = _Fitter(cases(FITTED, {"sdk_3": 1.0}, 12)).fit()
    assert fitted.constants == pytest.approx(dict(FITTED), rel=1e-6)
    assert fitted.sdk == pytest.approx({"sdk_3": 1.0}, rel=1e-6)
    assert np.abs(np.concatenate([fitted.log_errors, left_out])).max() < 1e-6


@pytest.mark.usefixtures("in_closed_form")
def test_a_constant_that_no_row_tells_about_stays_at_its_prior() -> None:
    known = {**FITTED, "elementwise_scale": 1.3}
    fitted, _ = _Fitter(cases(known, {"sdk_3": 1.0}, 20, blind_to="host_efficiency")).fit()
    prior = FITTED["host_efficiency"]
    assert fitted.constants["host_efficiency"] == pytest.approx(prior, rel=1e-6)


@pytest.mark.usefixtures("in_closed_form")
def test_a_left_out_error_knows_nothing_of_its_own_rows() -> None:
    """One size is published at half of what the others say: its fit does not bend towards it."""
    made = cases(FITTED, {"sdk_3": 1.0}, 20)
    odd = [
        _Case(c.name, c.size, c.lowered, c.execution, c.target, c.published / 2)
        if c.size == "B4"
        else c
        for c in made
    ]
    _, left_out = _Fitter(odd).fit()
    own = np.array([case.size == "B4" for case in odd])
    assert left_out[own] == pytest.approx(np.log(2), abs=0.05)


# ---- constants and generations


@pytest.mark.parametrize(
    ("release", "generation"),
    [
        ("1.0.0", "sdk_1"),
        ("1.4.0", "sdk_1"),
        ("2.0.0", "sdk_2_0"),
        ("2.2.0", "sdk_2_0"),
        ("2.3.0", "sdk_2_3"),
        ("2.6.0", "sdk_2_3"),
        ("3.0.0", "sdk_3"),
        ("3.4.0", "sdk_3"),
        ("4.0.0", "sdk_3"),
    ],
)
def test_a_release_belongs_to_a_generation(release: str, generation: str) -> None:
    assert SdkCalibration.generation(release) == generation
    assert generation in {field.name for field in fields(SdkCalibration)}


def test_every_fitted_constant_is_one_of_the_model() -> None:
    chosen = with_constants(calibration("mk2"), FITTED)
    assert constants_of(chosen) == dict(FITTED)


def test_constants_may_leave_their_ranges_while_they_are_fitted() -> None:
    base = calibration("mk2")
    chosen = with_constants(base, {"elementwise_scale": 100.0, "sdk_3": 0.01})
    assert chosen.op.elementwise_scale.value == chosen.op.elementwise_scale.high == 100.0
    assert chosen.sdk.scale("3.3.0") == chosen.sdk.sdk_3.low == 0.01
    assert chosen.conv is base.conv
    assert chosen.op.reduce_scale == base.op.reduce_scale
    assert with_constants(base, {}) == base


# ---- the program


def test_constants_and_both_errors_of_every_row_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def operations(lowered: Any, execution: Any, target: Any, chosen: Calibration) -> float:
        return 1e6 / len(lowered.ops) / chosen.op.elementwise_scale.value

    monkeypatch.setattr(calibrate, "throughput_samples_per_s", operations)
    rows = [
        ROW,
        {**ROW, "id": "r34", "model": "ResNet-34", "sdk": "3.3"},
        {**ROW, "id": "blank", "throughput_img_s": ""},
        {**ROW, "id": "odd", "model": "LeNet"},
    ]
    assert main([str(written(tmp_path / "rows.csv", rows))]) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    names = [line.split()[0] for line in lines[: len(FITTED) + 2]]
    assert names == [*FITTED, "sdk_2_3", "sdk_3"]
    assert [line.split()[0] for line in lines[len(FITTED) + 3 : -2]] == ["r18", "r34"]
    assert lines[-2].startswith("mean error 0.")
    first, second = err.splitlines()
    assert first == "blank: left out: throughput_img_s: nothing was published"
    assert second.startswith("odd: left out: model: 'LeNet' is none of")


def test_a_table_without_figures_leaves_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "rows.csv", [{**ROW, "throughput_img_s": ""}])
    assert main([str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith(f"{path}: no row to fit on; ")


def test_a_file_that_cannot_be_read_leaves_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing.csv"
    assert main([str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: No such file or directory; name a readable table\n"
