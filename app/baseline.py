"""A committed baseline of a run's simulation: written, read strictly, and compared with.

A small file of sorted JSON: what was simulated, by which IPU Model, what came out, and how far that
may move. Figures of two programs, two systems or two IPU Models are not compared. A change for the
better beyond the tolerance counts as much as one for the worse: else the next loss of the same size
would pass unseen.
"""

import hashlib
import json
import math
import os
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, Mapping, Optional, Tuple

from app.errors import ConfigError
from app.ipu_model.calibration import Calibrated, calibration

if TYPE_CHECKING:  # a file can be refused before anything heavy is loaded
    from app.ipu_model.simulation import Simulation

__all__ = ["Baseline", "Change", "Comparison", "Question", "Tolerance", "compare", "read_baseline"]

_KINDS: Mapping[str, Any] = {
    "calibration": {"constants": str, "name": str, "sdk": str},
    "config": str,
    "figures": str,
    "fits": bool,
    "mode": str,
    "peak_tile_bytes": int,
    "set": list,
    "step_time_s": float,
    "system": str,
    "throughput_samples_per_s": float,
    "tolerance": {"peak_tile_bytes": float, "throughput_samples_per_s": float},
}
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text",
          list: "a list of texts", dict: "an object"}  # fmt: skip
_CONSTANT_DIGITS = 12


@dataclass(frozen=True)
class Tolerance:
    """How far each figure may move, as a share of the baseline's.

    Raises:
        ValueError: a share outside 0..1; 1 itself would let anything pass.
    """

    throughput_samples_per_s: float = 0.02
    peak_tile_bytes: float = 0.02

    def __post_init__(self) -> None:
        for share in (self.throughput_samples_per_s, self.peak_tile_bytes):
            if not 0 <= share < 1:
                raise ValueError(f"must be a share from 0 to below 1, got {share:g}")


@dataclass(frozen=True)
class Question:
    """What was asked: the run's file as given, and its ``--set`` flags in their order."""

    config: str
    overrides: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Baseline:
    """What a simulation came to; ``constants`` tells sets of calibrated constants apart.

    ``step_time_s`` is there to be read and is not compared: it follows from throughput and batch.
    """

    question: Question
    system: str
    mode: str
    calibration: str
    sdk: str
    constants: str
    throughput_samples_per_s: float
    step_time_s: float
    peak_tile_bytes: int
    tolerance: Tolerance

    @staticmethod
    def of(simulation: "Simulation", question: Question, tolerance: Tolerance) -> "Baseline":
        """The baseline that a simulation which fits would leave.

        Raises:
            ConfigError: a step that takes no time, or no time that is known.
        """
        for figure in (simulation.throughput_samples_per_s, simulation.step_time_s):
            if not (math.isfinite(figure) and figure > 0):
                raise ConfigError(
                    f"{question.config}: a step takes {simulation.step_time_s} s, which leaves "
                    "nothing to compare; simulate a network that computes something"
                )
        return Baseline(
            question=question,
            system=simulation.system,
            mode=simulation.mode,
            calibration=simulation.calibration_name,
            sdk=simulation.sdk,
            constants=_constants(simulation.calibration_name),
            throughput_samples_per_s=float(simulation.throughput_samples_per_s),
            step_time_s=float(simulation.step_time_s),
            peak_tile_bytes=int(simulation.peak_tile_bytes),
            tolerance=tolerance,
        )

    def write(self, path: Path) -> None:
        """Write the file, whole or not at all, and its folder if need be.

        Raises:
            ConfigError: it cannot be written, or a file that is no baseline is there.
        """
        content = {
            "calibration": {"constants": self.constants, "name": self.calibration, "sdk": self.sdk},
            "config": self.question.config,
            "figures": "simulated",
            "fits": True,
            "mode": self.mode,
            "peak_tile_bytes": self.peak_tile_bytes,
            "set": list(self.question.overrides),
            "step_time_s": self.step_time_s,
            "system": self.system,
            "throughput_samples_per_s": self.throughput_samples_per_s,
            "tolerance": asdict(self.tolerance),
        }
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _require_replaceable(path)
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(path)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            raise ConfigError(
                f"{path}: cannot be written ({error.strerror}); name another file"
            ) from error


def _require_replaceable(path: Path) -> None:
    """Refuse to replace what never was a baseline; a damaged one is there to be written anew."""
    if (
        path.exists()
        and (found := path.read_bytes())
        and b'"throughput_samples_per_s"' not in found
    ):
        raise ConfigError(
            f"--write-baseline {path}: is no baseline; name another file, or remove it"
        )


def _constants(chip: str) -> str:
    """A hash of all calibrated values, without their evidence."""
    text = json.dumps(_values(calibration(chip)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_CONSTANT_DIGITS]


def _values(constants: Any) -> Any:
    if isinstance(constants, Calibrated):
        return float(constants.value)
    assert is_dataclass(constants)
    return {each.name: _values(getattr(constants, each.name)) for each in fields(constants)}


# ---- reading


def read_baseline(path: Path) -> Baseline:
    """The baseline in a file.

    Raises:
        ConfigError: there is none, or it is not exactly as `Baseline.write` writes it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(
            f"{path}: there is no baseline; write it with --write-baseline {path} and commit it"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({why}); name a baseline") from error
    try:
        content = json.loads(text, object_pairs_hook=_once)
        _require(_KINDS, content, "")
        return _baseline(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: {error}; mend it, or write it anew with --write-baseline {path}"
        ) from error


def _once(pairs: Iterable[Tuple[str, Any]]) -> Dict[str, Any]:
    found: Dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"'{key}' stands there twice")
        found[key] = value
    return found


def _require(kinds: Mapping[str, Any], content: Any, where: str) -> None:
    """Refuse all but these keys with values of these kinds."""
    if type(content) is not dict:
        raise ValueError(f"{repr(where[:-1]) if where else 'it'} must be an object of JSON")
    for key in content:
        if key not in kinds:
            raise ValueError(f"unknown key '{where}{key}'")
    for key, kind in kinds.items():
        if key not in content:
            raise ValueError(f"'{where}{key}' is missing")
        if isinstance(kind, dict):
            _require(kind, content[key], f"{where}{key}.")
        else:
            _require_kind(kind, content[key], where + key)


def _require_kind(kind: type, value: Any, key: str) -> None:
    # `True` is an int to isinstance, so types are compared; a whole float may be written as an int
    right = type(value) is kind or (kind is float and type(value) is int)
    if right and kind is list:
        right = all(type(each) is str for each in value)
    if not right:
        raise ValueError(f"'{key}' must be {_NAMES[kind]}, got {json.dumps(value)}")
    # a whole number of a thousand digits is an int of JSON and no float
    if kind in (int, float) and not abs(value) <= 1e300:
        raise ValueError(f"'{key}' must be finite, got {json.dumps(value)[:20]}")


def _baseline(content: Dict[str, Any]) -> Baseline:
    for key in ("throughput_samples_per_s", "step_time_s", "peak_tile_bytes"):
        if content[key] <= 0:
            raise ValueError(f"'{key}' must be more than 0, got {content[key]}")
    if content["fits"] is not True:
        raise ValueError("'fits' must be true: a baseline is of a run that fits")
    if content["figures"] != "simulated":
        raise ValueError(f"'figures' must be \"simulated\", got {json.dumps(content['figures'])}")
    try:
        tolerance = Tolerance(**content["tolerance"])
    except ValueError as error:
        raise ValueError(f"'tolerance' {error}") from error
    return Baseline(
        question=Question(content["config"], tuple(content["set"])),
        system=content["system"],
        mode=content["mode"],
        calibration=content["calibration"]["name"],
        sdk=content["calibration"]["sdk"],
        constants=content["calibration"]["constants"],
        throughput_samples_per_s=float(content["throughput_samples_per_s"]),
        step_time_s=float(content["step_time_s"]),
        peak_tile_bytes=content["peak_tile_bytes"],
        tolerance=tolerance,
    )


# ---- comparing


@dataclass(frozen=True)
class Change:
    """A figure before and after; ``tolerance`` is a share of ``before``."""

    figure: str
    before: float
    after: float
    tolerance: float

    @property
    def share(self) -> float:
        """The change as a share of what was: -0.1 is a tenth less."""
        return self.after / self.before - 1

    @property
    def moved(self) -> bool:
        """Whether it is beyond the tolerance, to either side."""
        return not abs(self.after - self.before) <= self.tolerance * self.before

    @property
    def is_better(self) -> bool:
        """More throughput, or less memory."""
        return (self.share > 0) == (self.figure == "throughput_samples_per_s")

    def __str__(self) -> str:
        what, unit, up, down = _WORDS[self.figure]
        verb = up if self.share > 0 else down
        return (
            f"{what} {verb} from {_number(self.before)} to {_number(self.after)} {unit} "
            f"({self.in_percent}, tolerance {100 * self.tolerance:g} %)"
        )

    @property
    def in_percent(self) -> str:
        """The change as people read it, with its sign."""
        return f"{100 * self.share:+.3g} %"


_WORDS = {
    "throughput_samples_per_s": ("simulated throughput", "samples/s", "rose", "fell"),
    "peak_tile_bytes": ("simulated memory of the fullest tile", "bytes", "grew", "shrank"),
}


def _number(value: float) -> str:
    """Bytes exactly; rates below 10,000 with digits that a tolerance would see."""
    return f"{value:,.0f}" if value == int(value) or value >= 1e4 else f"{value:.5g}"


@dataclass(frozen=True)
class Comparison:
    """A baseline beside what is now.

    other_question, other_model: what differs in what was asked, and in the IPU Model, as sentences'
    parts; where there is any, the changes are shown and decide nothing.
    """

    changes: Tuple[Change, Change]
    other_question: Tuple[str, ...]
    other_model: Tuple[str, ...]

    @property
    def verdict(self) -> str:
        """``holds``, ``moved``, or ``another question`` or ``another model`` than the baseline."""
        if self.other_question:
            return "another question"
        if self.other_model:
            return "another model"
        return "moved" if any(change.moved for change in self.changes) else "holds"

    def sentence(self, path: Path, config: str, accept: str) -> str:
        """What is not as the file has it, and the command that accepts it."""
        if self.other_question:
            return (
                f"{config}: {path} is the baseline of something else: "
                f"{', '.join(self.other_question + self.other_model)}; name the right one, or "
                f"write it anew: {accept}"
            )
        if self.other_model:
            return (
                f"{config}: the IPU Model changed since {path} was written, which is not the "
                f"program's doing: {', '.join(self.other_model)}; write it anew: {accept}"
            )
        moved = [change for change in self.changes if change.moved]
        what = " and ".join(map(str, moved))
        advice = (
            "better than it says, so accept it"
            if all(change.is_better for change in moved)
            else "mend the run, or accept it"
        )
        return f"{config}: {what}, against {path}; {advice}: {accept}"


def compare(before: Baseline, now: Baseline, tolerance: Optional[Tolerance] = None) -> Comparison:
    """What a baseline says of a simulation; a tolerance given counts in place of its own."""
    allowed = tolerance or before.tolerance
    throughput, peak = "throughput_samples_per_s", "peak_tile_bytes"
    return Comparison(
        changes=(
            Change(throughput, before.throughput_samples_per_s, now.throughput_samples_per_s,
                   allowed.throughput_samples_per_s),
            Change(peak, before.peak_tile_bytes, now.peak_tile_bytes, allowed.peak_tile_bytes),
        ),
        other_question=_differences(
            # a file is the same from wherever it is named
            ("config", *(PurePath(each.question.config).name for each in (before, now))),
            ("--set", *(" ".join(each.question.overrides) or "nothing" for each in (before, now))),
            ("system", before.system, now.system),
            ("mode", before.mode, now.mode),
        ),
        other_model=_differences(
            ("calibration", before.calibration, now.calibration),
            ("SDK", before.sdk, now.sdk),
            ("hash of constants", before.constants, now.constants),
        ),
    )  # fmt: skip


def _differences(*pairs: Tuple[str, ...]) -> Tuple[str, ...]:
    found: List[str] = []
    for name, before, after in pairs:
        if before != after:
            found.append(f"{name} was {before} and is {after}")
    return tuple(found)
