"""A run and what follows it: fine-tuning at each test size, and a table of all sizes.

The run trains in its own directory; each size is an ordinary run in a directory below, which starts
from the averaged weights. What is finished is never done again, so that a chain that was killed
anywhere continues there.
"""

from dataclasses import replace
from pathlib import Path
from typing import Callable, List, NamedTuple, Optional

import torch

from app.config.loader import dump, load_text
from app.config.schema import Run
from app.distributed.world import ALONE, World
from app.errors import ConfigError
from app.nets import build_net, layers_before, training_macs
from app.training.agreement import shared_weights
from app.training.checkpoints import read_checkpoint
from app.training.evaluation import Score
from app.training.freezing import freeze_before
from app.training.length import RunLength
from app.training.phases import fine_tuning_runs, phase_folders, phase_name
from app.training.placement import check_names, check_order
from app.training.resolutions import Resolution, Table, read_table
from app.training.run_directory import Finished, finished_run, identity, planned_by, was_started
from app.training.sizes import at_size, stride_of, warn_of_size
from app.training.sweep import Candidate, Forecast, accuracies, macs_per_image, with_row
from app.training.trainer import Planner, Trainer, refuse_untrainable
from app.training.weights import checkpoint_file, weights_of
from datasets import image_shape

TABLE = "resolutions"
"""Name of the table's files in the run directory."""
_SPLIT = "test"
_TUNED_SPLITS = "fine_tuning.pipeline.splits"


class Phase:
    """One run of a chain: finished, or about to be trained.

    ``world`` and ``stop`` are as for ``Trainer``; the first instance alone reads the directory.

    Raises:
        AppError: as ``Trainer`` does; fine-tuning of an earlier run is in the way.
    """

    def __init__(
        self,
        run: Run,
        path: Path,
        planner: Optional[Planner] = None,
        world: World = ALONE,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.world, self.stop = world, stop
        if world.is_first:
            _refuse_leftovers(path)
        self.finished = self._shared(finished_run(path, run) if world.is_first else None)
        self.trainer: Optional[Trainer] = None
        if self.finished is None:
            self.trainer = Trainer(run, path, planner, world, stop)
            self.run = self.trainer.run
        else:
            planned = dump(planned_by(path, run)) if world.is_first else ""
            self.run = load_text(world.share(planned), f"{path}, its configuration")

    def _shared(self, finished: Optional[Finished]) -> Optional[Finished]:
        """The first instance's, in all."""
        if self.world.count == 1:
            return finished
        told = self.world.share(
            None
            if finished is None
            else [*vars(finished.score).values(), finished.steps, str(finished.checkpoint)]
        )
        if told is None:
            return None
        loss, accuracy, steps, checkpoint = told
        return Finished(Score(loss, accuracy), steps, Path(checkpoint))

    def check_lengths(self) -> None:
        """Refuse fine-tuning whose one call takes more images than there are.

        Raises:
            ConfigError: as said.
        """
        if self.trainer is not None:
            for run in fine_tuning_runs(self.run, self.path):
                RunLength(run, len(self.trainer.dataset.train))

    def fit(self) -> Finished:
        """Train to the end, or where that is done say how it ended."""
        if self.trainer is not None:
            score = self.trainer.fit()
            last = checkpoint_file(self.path) if self.world.is_first else None
            self.finished = self._shared(
                Finished(score, self.trainer.step, last) if last is not None else None
            )
            self.trainer = None  # and with it the images, and what was compiled
        assert self.finished is not None
        return self.finished

    def macs(self) -> int:
        """Multiply-adds of the whole finished run, counted."""
        assert self.finished is not None
        return macs_of(self.run, self.finished.steps)


def _refuse_leftovers(path: Path) -> None:
    """Refuse to begin a run where an earlier one's fine-tuning is: it would pass for this one's."""
    if was_started(path):
        return
    for folder in phase_folders(path):
        if was_started(folder):
            raise ConfigError(
                f"{folder}: was fine-tuned from an earlier run, which is no longer in {path}; "
                "remove it, or choose another --out"
            )


def macs_of(run: Run, steps: int) -> int:
    """Multiply-adds of so many weight updates: forward, and backward where something is trained.

    See ``app.nets.training_macs``; recomputation, tests and the update itself do not count.
    """
    channels, num_classes = image_shape(run.data)
    with torch.device("meta"):
        net = build_net(run.model, num_classes, channels)
    freeze_before(net, run.model, run.training.trained_from)
    per_image = training_macs(net, run.data.image_size, channels)
    return per_image * steps * run.batching.global_batch


class Cost(NamedTuple):
    """Multiply-adds of one phase, counted."""

    phase: str
    size: int
    macs: int


Fit = Callable[[Phase], Finished]


class Chain:
    """What follows a run that is, or will be, finished.

    Args:
        main: the run.
        forecast: simulates inference at each size.

    Raises:
        ConfigError: phases that cannot be derived from the run as it was planned.
    """

    def __init__(self, main: Phase, forecast: Forecast) -> None:
        self._main = main
        self._forecast = forecast
        self.costs: List[Cost] = []
        fine_tuning_runs(main.run, main.path)

    def fine_tune(self, fit: Fit = Phase.fit) -> Table:
        """Fine-tune at each size and measure all; the table is complete after each.

        ``fit`` trains a phase.

        Raises:
            AppError: as training does.
        """
        main = self._main.fit()
        stored = self._stored(main)
        table = stored or with_row(self._empty(main), self._trained(main))
        self.costs = [Cost("train", self._main.run.data.image_size, self._main.macs())]
        for run in fine_tuning_runs(self._main.run, main.checkpoint):
            size = run.data.image_size
            path = self._main.path / phase_name(size)
            row = table.row(size)
            self._main.world.share(row is None)  # whether all are to score it, as below
            if row is None:
                row = self._untuned(main, table, size)
                table = with_row(table, row)
                table.write_json(self._main.path / f"{TABLE}.json")
            phase = Phase(run, path, None, self._main.world, self._main.stop)
            score = fit(phase).score
            self.costs.append(Cost(path.name, size, phase.macs()))
            table = with_row(table, replace(row, fine_tuned=score.accuracy))
        if table != stored or not (self._main.path / f"{TABLE}.png").exists():
            table.write(self._main.path, TABLE)
        return table

    def _empty(self, main: Finished) -> Table:
        run = self._main.run
        return Table(
            run=run.name,
            checkpoint=main.checkpoint.name,
            weights="average" if run.training.average_decay else "last",
            split=_SPLIT,
            system=run.system.name,
            training_size=run.data.image_size,
            configuration=identity(run),
        )

    def _stored(self, main: Finished) -> Optional[Table]:
        """What was measured so far, of sizes that are still asked for."""
        stored = read_table(self._main.path / f"{TABLE}.json")
        if stored is None or replace(stored, rows=()) != self._empty(main):
            return None
        asked = {stored.training_size, *self._main.run.fine_tuning.image_sizes}
        return replace(stored, rows=tuple(row for row in stored.rows if row.size in asked))

    def _trained(self, main: Finished) -> Resolution:
        """The training size, which the run itself has tested."""
        return self._resolution(self._main.run, main.score.accuracy)

    def _untuned(self, main: Finished, table: Table, size: int) -> Resolution:
        run = at_size(self._main.run, "fine_tuning.image_sizes", size)
        weights = weights_of(read_checkpoint(main.checkpoint))
        candidate = Candidate(main.checkpoint, weights.state)
        return self._resolution(run, _accuracy(run, table.split, candidate, self._main.world))

    def _resolution(self, run: Run, accuracy: float) -> Resolution:
        return Resolution(
            size=run.data.image_size,
            accuracy=accuracy,
            fine_tuned=None,
            images_per_s=self._forecast(run),
            macs=macs_per_image(run),
        )

    def native_macs(self, size: int) -> int:
        """Multiply-adds of training the whole network on as many images of another size."""
        run = at_size(self._main.run, "fine_tuning.image_sizes", size)
        finished = self._main.fit()
        return macs_of(run, finished.steps)

    def cost_text(self) -> str:
        """What the phases cost, and how much that is of training at each size instead."""
        training, *tunings = self.costs
        total = sum(cost.macs for cost in self.costs)
        lines = ["training cost in multiply-adds of convolutions and linear layers, counted:"]
        lines.append(_cost_line(training, ""))
        for cost in tunings:
            ratio = (training.macs + cost.macs) / self.native_macs(cost.size)
            share = f"  with training {ratio:.3f} x training at {cost.size} px throughout"
            lines.append(_cost_line(cost, share))
        largest = max(cost.size for cost in self.costs)
        ratio = total / self.native_macs(largest)
        share = f"  {ratio:.3f} x training at {largest} px, the largest size, throughout"
        lines.append(_cost_line(Cost("in all", 0, total), share))
        return "\n".join(lines)


def _cost_line(cost: Cost, share: str) -> str:
    size = f"{cost.size} px" if cost.size else ""
    return f"  {cost.phase:<16}{size:>7}  {cost.macs:.3e}{share}"


def _accuracy(run: Run, split: str, candidate: Candidate, world: World) -> float:
    """Of the first instance's weights, which all instances score together: one alone might let the
    others wait too long."""
    shared = candidate._replace(state=shared_weights(world, dict(candidate.state)))
    (accuracy,) = accuracies(run, split, [shared], world)
    return accuracy


def fine_tune_along(main: Phase) -> None:
    """What instances other than the first do of ``Chain.fine_tune``: score and train their
    share."""
    assert main.finished is not None
    for run in fine_tuning_runs(main.run, main.finished.checkpoint):
        size = run.data.image_size
        path = main.path / phase_name(size)
        if main.world.share(None):
            untuned = at_size(main.run, "fine_tuning.image_sizes", size)
            _accuracy(untuned, _SPLIT, Candidate(main.finished.checkpoint, {}), main.world)
        Phase(run, path, None, main.world, main.stop).fit()


def check_phases(run: Run) -> None:
    """Refuse ``fine_tuning`` that names no modules of the network or cuts it wrongly, and warn of
    sizes that cost accuracy: to be called before anything is trained.

    Raises:
        ConfigError: as said.
    """
    runs = fine_tuning_runs(run, Path("checkpoint"))
    if not runs:
        return
    channels, num_classes = image_shape(run.data)
    with torch.device("meta"):
        net = build_net(run.model, num_classes, channels)
    splits = "pipeline.splits" if run.fine_tuning.pipeline is None else _TUNED_SPLITS
    check_names(net, runs[0], splits)
    check_order(layers_before(net, runs[0].pipeline.splits), runs[0], splits)
    freeze_before(net, run.model, runs[0].training.trained_from, "fine_tuning.trained_from")
    stride = stride_of(run.model)
    batching = "batching" if run.fine_tuning.batching is None else "fine_tuning.batching"
    for each in runs:
        refuse_untrainable(each, batching)
        size = each.data.image_size
        warn_of_size("fine_tuning.image_sizes", size, run.data.image_size, stride)
