"""Testing one network at many sizes of images: ``validate --sweep``."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Callable, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor

from app.config.loader import load_run, load_text
from app.config.schema import Run
from app.distributed.world import ALONE, World
from app.nets import build_net, macs
from app.training.checkpoints import read_checkpoint
from app.training.evaluation import Evaluator
from app.training.phases import phase_name
from app.training.resolutions import Resolution, Table, read_table
from app.training.run_directory import finished_run, identity
from app.training.sizes import at_size, stride_of, sweep_sizes, warn_of_size
from app.training.weights import Which, checkpoint_file, mismatch, weights_of
from datasets import image_shape, open_dataset

Forecast = Callable[[Run], Optional[float]]
"""Simulated images/s of a run's inference; None where it does not fit or is not simulated."""


class Candidate(NamedTuple):
    """Weights to test, and the file they are from."""

    file: Path
    state: Mapping[str, Tensor]


def accuracies(
    run: Run, split: str, candidates: Sequence[Candidate], world: World = ALONE
) -> List[float]:
    """Share of right answers of each candidate on a split, at the run's image size.

    All instances score their share of the images, and have the same result.

    Raises:
        CheckpointError: weights of another network.
    """
    dataset = open_dataset(run.data, run.seed)
    evaluator = Evaluator(run, dataset, world)
    found = []
    for file, state in candidates:
        try:
            evaluator.load(state)
        except RuntimeError as error:
            remedy = "leave --config out to use the checkpoint's own"
            raise mismatch(file, run.model, error, remedy) from error
        found.append(evaluator.score(getattr(dataset, split)).accuracy)
    return found


def macs_per_image(run: Run) -> int:
    """Multiply-adds of one image of the run's size."""
    channels, num_classes = image_shape(run.data)
    with torch.device("meta"):
        net = build_net(run.model, num_classes, channels)
    return macs(net, run.data.image_size, channels)


class Sweep:
    """One checkpoint, tested at several sizes.

    Args:
        path: the checkpoint, or a run directory for its newest. Weights that were fine-tuned from
            it at a size are looked for beside it.
        run: configuration to use instead of the one that the checkpoint carries.
        split: ``validation`` or ``test``.
        which: averaged weights, where there are any, or the last.
        forecast: simulates inference.

    Raises:
        CheckpointError: there is no checkpoint, or it cannot be read.
    """

    def __init__(
        self, path: Path, run: Optional[Run], split: str, which: Which, forecast: Forecast
    ) -> None:
        self.file = checkpoint_file(path)
        checkpoint = read_checkpoint(self.file)
        trained = load_text(checkpoint.config, f"{self.file}, its configuration")
        self.run = run or trained
        self._weights = weights_of(checkpoint, which)
        # fine-tuning began with the weights that it takes by default, as they were trained
        self._is_tuned = self._weights.which == weights_of(checkpoint).which and (
            _what_decides(self.run) == _what_decides(trained)
        )
        self._forecast = forecast
        self._stride = stride_of(self.run.model)
        self.table = Table(
            run=self.run.name,
            checkpoint=self.file.name,
            weights=self._weights.which,
            split=split,
            system=self.run.system.name,
            training_size=self.run.data.image_size,
            configuration=identity(self.run),
        )

    @property
    def folder(self) -> Path:
        """Where the checkpoint is."""
        return self.file.parent

    def measure(self, sizes: Sequence[int], out: Path) -> Table:
        """Test at every size and write the table after each, as ``sweep.csv``, .json and .png.

        No sizes are all that suit the network. A table of the same weights that stands beside
        the checkpoint keeps its other sizes. Progress goes to stderr; interrupted, what was
        measured is in the files.

        Raises:
            ConfigError: a size that the run does not go with.
            CheckpointError: weights of another network, or nothing can be written.
        """
        # elsewhere, a table of the same names may be another run's
        beside = out.resolve() == self.folder.resolve()
        stored = read_table(out / "sweep.json") if beside else None
        if stored is not None and replace(stored, rows=()) == self.table:
            self.table = stored
        chosen = sorted(set(sizes)) or sweep_sizes(self.run.data.image_size, self._stride)
        for size in chosen:
            warn_of_size("--sizes", size, self.run.data.image_size, self._stride)
        runs = [at_size(self.run, "--sizes", size) for size in chosen]
        for number, run in enumerate(runs, start=1):
            row = self._row(run)
            self.table = with_row(self.table, row)
            self.table.write(out, "sweep")
            _tell(row, f"{number}/{len(runs)}")
        return self.table

    def _row(self, run: Run) -> Resolution:
        size = run.data.image_size
        candidates = [Candidate(self.file, self._weights.state)]
        tuned = fine_tuned_checkpoint(self.file, size) if self._is_tuned else None
        if tuned is not None:
            candidates.append(Candidate(tuned, weights_of(read_checkpoint(tuned)).state))
        found = accuracies(run, self.table.split, candidates)
        return Resolution(
            size=size,
            accuracy=found[0],
            fine_tuned=found[1] if tuned is not None else None,
            images_per_s=self._forecast(run),
            macs=macs_per_image(run),
        )


def _what_decides(run: Run) -> Tuple[object, ...]:
    """What decides a network's answers beside its weights."""
    data = run.data
    return run.model, run.precision, data.name, data.mean, data.std, data.test_crop


def fine_tuned_checkpoint(checkpoint: Path, size: int) -> Optional[Path]:
    """The last weights of the finished run, beside a checkpoint, that fine-tuned this very one at a
    size, if any."""
    path = checkpoint.parent / phase_name(size)
    config = path / "config.yml"
    if not config.exists():
        return None
    run = load_run(config)
    if Path(run.training.initial_checkpoint or "").name != checkpoint.name:
        return None
    finished = finished_run(path, run)
    return None if finished is None else finished.checkpoint


def with_row(table: Table, row: Resolution) -> Table:
    """The table with a row in its place, instead of an earlier one of that size."""
    others = [each for each in table.rows if each.size != row.size]
    rows = sorted([*others, row], key=lambda each: each.size)
    facts: Dict[str, object] = {**vars(table), "rows": tuple(rows)}
    return Table(**facts)  # type: ignore[arg-type]


def _tell(row: Resolution, progress: str) -> None:
    tuned = "" if row.fine_tuned is None else f", {row.fine_tuned:.2%} fine-tuned"
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.2%}"
    print(f"{progress}  {row.size} px: accuracy {accuracy}{tuned} (measured)", file=sys.stderr)
