"""The training loop: an ordinary PopTorch program that can be killed at any moment and resumed."""

import math
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, NoReturn, Optional, Tuple

import torch
from torch import Tensor
from tqdm import tqdm

from app import backend
from app.config.loader import dump
from app.config.schema import Run
from app.distributed.errors import PreemptedError
from app.distributed.spreading import replicas_local
from app.distributed.world import ALONE, World
from app.errors import CheckpointError, ConfigError
from app.nets import build_net
from app.sdk import poptorch
from app.training import metrics as metrics_file
from app.training.agreement import (
    agree_on_data,
    agree_on_run,
    agreed_outcome,
    shared_checkpoint,
    shared_weights,
    told_to_stop,
)
from app.training.averaging import WeightAverage
from app.training.checkpoints import Checkpoint, CheckpointStore
from app.training.compilation import compile_program
from app.training.curves import MEASURED_BY, plot_curves
from app.training.device_models import training_model
from app.training.evaluation import Evaluator, Score
from app.training.length import RunLength
from app.training.loading import loaded, loading_mode, odd_images, outlive_sigterm
from app.training.non_finite import FiniteCalls, Kept
from app.training.optimizers import build_optimizer
from app.training.placement import place, training_options
from app.training.run_directory import RunDirectory, follow, stored_plan
from app.training.samples import Share, training_samples
from app.training.schedule import learning_rate_factor
from app.training.tally import EpochTally
from app.training.weights import load_initial
from datasets import ImageDataset, open_dataset, summary

Batch = Tuple[Tensor, ...]
"""Images and labels of one call, and how to mix them where the run mixes."""

Planner = Callable[[Run], str]


def refuse_untrainable(run: Run, batching: str = "batching") -> None:
    """Refuse what no training can do; ``batching`` is what the error calls that section.

    Raises:
        ConfigError: as said.
    """
    if run.planning.mode != "training":
        raise ConfigError(
            "planning.mode: the run is one for inference, which cannot be trained; plan it for "
            "training"
        )
    if run.model.norm.kind == "online" and run.batching.replicas > 1:
        raise ConfigError(
            f"{batching}.replicas: online norm has streams on each replica, of which a checkpoint "
            "holds one; use one replica, or another norm"
        )


def _plan(run: Run, out: Path, planner: Optional[Planner]) -> str:
    """The run file that a run follows: the one in its directory, else a new one."""
    stored = stored_plan(out, run)
    if stored is not None:
        return stored
    if planner is None:
        raise ConfigError("plan: auto needs a planner; use `python -m app train`")
    return planner(run)


def _of_net(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """The network's part of a training model's state dict."""
    prefix = "net."
    return {name[len(prefix) :]: t for name, t in state.items() if name.startswith(prefix)}


class Trainer:
    """One run in one directory: continues from its newest checkpoint, or starts.

    Args:
        run: the configuration.
        out: the run's directory.
        planner: makes the run file of a run with ``plan: auto``, which is planned once: what was
            planned stays in the directory.
        world: the instances that train the run together, each with its own trainer. The first one
            alone touches the directory.
        stop: whether the run should write a checkpoint and end; asked after every call.

    ``run``, as an attribute, is what is trained: the planned run where there is a plan.

    Raises:
        AppError: whatever the user can mend, before the first step where it can be known by then.
    """

    def __init__(
        self,
        run: Run,
        out: Path,
        planner: Optional[Planner] = None,
        world: World = ALONE,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        refuse_untrainable(run)
        self.world, self._stop, self._out = world, stop, out
        agree_on_run(world, run)
        asked = run
        plan = _plan(run, out, planner) if run.plan == "auto" and world.is_first else None
        plan = world.share(plan)
        run = run if plan is None else follow(run, plan, out / "plan.yml")
        self.run = run
        replicas_local(run.batching.replicas, world.count)  # refused early
        self.dataset: ImageDataset = open_dataset(run.data, run.seed)
        agree_on_data(world, self.dataset)
        self.length = RunLength(run, len(self.dataset.train))
        torch.manual_seed(run.seed)
        self.net = build_net(run.model, self.dataset.num_classes, self.dataset.channels)
        place(self.net, run)
        model = training_model(run, self.net, self.dataset.channels)
        if (
            run.training.initial_checkpoint
            and world.is_first
            and CheckpointStore(out, keep=1).latest() is None
        ):
            load_initial(self.net, run.model, Path(run.training.initial_checkpoint))
        self.optimizer = build_optimizer(model, run.optimizer, run.precision)
        self.options = training_options(run, world)
        self.evaluator = Evaluator(run, self.dataset, world)
        self.epoch = self.step = 0
        self.average: Optional[WeightAverage] = (
            WeightAverage(run.training.average_decay) if run.training.average_decay else None
        )
        self._so_far: Optional[Dict[str, float]] = None
        with ExitStack() as on_failure:
            if world.is_first:
                self.directory = on_failure.enter_context(RunDirectory(out, asked, plan))
            self.resumed = self._restore()
            on_failure.pop_all()
        self.executor = poptorch.trainingModel(model, self.options, self.optimizer)

    def _restore(self) -> Optional[Checkpoint]:
        checkpoint: Optional[Checkpoint] = None
        if self.world.is_first:
            checkpoint = self.directory.newest_checkpoint()
            self.directory.metrics.truncate_after(checkpoint.step if checkpoint else -1)
        checkpoint = shared_checkpoint(self.world, checkpoint)
        if checkpoint is None:
            # only the first may have read them from a file
            self.net.load_state_dict(shared_weights(self.world, self.net.state_dict()))
            return None
        calls = int(checkpoint.so_far["calls"]) if checkpoint.so_far is not None else 0
        epochs = checkpoint.epoch * self.length.samples_per_epoch
        if checkpoint.samples != epochs + calls * self.length.samples_per_call:
            raise CheckpointError(
                f"{self._out}: was started with another number of training images; "
                "restore the dataset, or choose another --out"
            )
        self.net.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step, self.epoch = checkpoint.step, checkpoint.epoch
        self._so_far = checkpoint.so_far
        if self.average is not None and checkpoint.average is not None:
            self.average.restore(checkpoint.average)
        return checkpoint

    def fit(self) -> Score:
        """Train to the end, then score the final weights on the test split.

        Raises:
            PreemptedError: ``stop`` said so; what the same command goes on from is written.
        """
        with self.directory if self.world.is_first else nullcontext():
            self._train()
            score = self._test()
            if self.world.is_first:
                records = metrics_file.read(self.directory.metrics.path)
                footnote = MEASURED_BY[backend.chosen()]
                plot_curves(records, self.directory.curve, self.run.name, footnote)
        return score

    def _train(self) -> None:
        if self.epoch >= self.length.epochs:  # nothing is left to load, which a loader refuses
            return
        loader = self._loader()
        try:
            batches = loaded(loader, self.run.data.name, self.dataset.train.log)
            with self._progress() as progress:
                while self.epoch < self.length.epochs:
                    record = self._train_epoch(batches, progress)
                    self.epoch += 1
                    if self._finish_epoch(record, progress):
                        self._end_early(self.step)
        finally:
            loader.terminate()

    def _loader(self) -> Any:
        data = self.run.data
        stream = training_samples(self.run, self.dataset.train, self.length.samples_per_epoch)
        start = self.resumed.samples if self.resumed else 0
        return poptorch.DataLoader(
            self.options,
            stream,
            self.run.batching.micro_batch,
            sampler=Share(start, self.length.samples, self.run.batching, self.world),
            auto_distributed_partitioning=False,
            num_workers=data.workers,
            worker_init_fn=outlive_sigterm if data.workers else None,
            **loading_mode(data, self.length.samples_per_call // self.world.count),
        )

    def _train_epoch(self, batches: Iterator[Batch], progress: Any) -> Dict[str, float]:
        """One epoch of calls; the means over those whose loss is finite."""
        tally = EpochTally(self.length, self.run.batching.micro_batch, self._so_far)
        self._so_far = None
        means: Dict[str, float] = {}
        guard = self._guard()
        for call in range(tally.calls + 1, self.length.calls_per_epoch + 1):
            batch = next(batches)
            self._compile(batch)
            guard.before_call(self.step, tally.so_far())
            rate = self._set_learning_rate()
            losses, correct = self._call(batch)
            outcome = agreed_outcome(self.world, losses, correct, self._stop())
            tally.calls = call
            self.step += self.run.batching.device_iterations
            progress.update(self.run.batching.device_iterations)
            if guard.succeeded(torch.tensor(outcome.loss)):
                tally.add(outcome)
                means = tally.means(rate)
                self._show(means, progress)
            else:
                self._undo(guard, "the loss is", tally, progress)
            if outcome.stop and call < self.length.calls_per_epoch:
                self._end_within_epoch(guard, tally, progress)
        if not means and not (means := tally.means(self._set_learning_rate())):
            raise guard.diverged(self.step, "every loss of the epoch is", self._kept(tally))
        self._require_finite_state(guard, tally, progress)
        return {**means, **self._odd_images(progress)}

    def _odd_images(self, progress: Any) -> Dict[str, float]:
        """How many images of the epoch come from odd files, by kind; nothing without files."""
        first = self.epoch * self.length.samples_per_epoch
        samples = range(first, first + self.length.samples_per_epoch)
        counts = odd_images(self.dataset.train.log, samples, self.world)
        line = summary(counts, f"epoch {self.epoch + 1}")
        if line and self.world.is_first:
            progress.write(line, file=sys.stderr)
        return {f"images_{kind}": count for kind, count in counts.items()}

    def _require_finite_state(self, guard: FiniteCalls, tally: EpochTally, progress: Any) -> None:
        """The last update has met no loss yet, and a checkpoint must not hold what spoils the
        next."""
        # running statistics are each instance's own
        finite = self.world.gather([float(guard.state_is_finite())])
        if not all(flag for (flag,) in finite):
            self._undo(guard, "what the last update made is", tally, progress)

    def _show(self, means: Mapping[str, float], progress: Any) -> None:
        progress.set_postfix_str(
            f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.1%}, "
            f"{means['images_per_s']:.0f} images/s"
        )

    def _end_within_epoch(self, guard: FiniteCalls, tally: EpochTally, progress: Any) -> NoReturn:
        """Write a checkpoint between two calls. Where calls may be undone it is of a state that one
        has succeeded from: the run then goes on as if it had not been stopped."""
        proved = guard.proved
        if proved is None:
            self._require_finite_state(guard, tally, progress)
            checkpoint = self._checkpoint(self._weights(), tally.so_far())
        else:
            now = self._checkpoint(_of_net(proved.model), proved.so_far)
            checkpoint = replace(
                now,
                step=proved.step,
                optimizer={**now.optimizer, "ipu_state": proved.optimizer},
                rng_state=proved.rng_state,
            )
        if self.world.is_first and checkpoint.so_far and checkpoint.so_far["calls"]:
            self.directory.checkpoints.save(checkpoint)  # an epoch's start has one, or needs none
        self._end_early(checkpoint.step)

    def _end_early(self, kept_step: int) -> NoReturn:
        where = (
            ", which is in the checkpoint; the same command resumes there"
            if kept_step == self.step
            else f"; the same command resumes after step {kept_step}, to which an undone call "
            "would go back"
        )
        raise PreemptedError(
            f"stopped by SIGTERM after step {self.step} of {self.length.steps}{where}"
        )

    def _guard(self) -> FiniteCalls:
        """What watches one epoch's losses; calls undone before are those in the metrics."""
        undone = 0
        if self.world.is_first:
            records = metrics_file.read(self.directory.metrics.path)
            undone = sum(record["phase"] == "undone" for record in records)
        undone = self.world.share(undone)
        training = self.run.training
        return FiniteCalls(
            self.executor,
            self.optimizer,
            training.non_finite_limit,
            training.snapshot_calls,
            undone,
            "a lower precision.loss_scaling, " if self.run.precision.loss_scaling > 1 else "",
        )

    def _undo(self, guard: FiniteCalls, what: str, tally: EpochTally, progress: Any) -> None:
        line = guard.undo(self.step, what, self._kept(tally))
        if not self.world.is_first:
            return
        progress.write(line, file=sys.stderr)
        epoch = self.epoch + tally.calls / self.length.calls_per_epoch
        self.directory.metrics.append(self.step, epoch, "undone", count=guard.undone)

    def _kept(self, tally: EpochTally) -> Kept:
        newest = self.directory.checkpoints.newest(2) if self.world.is_first else []
        last, older = [*map(Path, self.world.share([*map(str, newest)])), None, None][:2]
        return Kept(last) if tally.succeeded else Kept(older, unproved=last)

    def _compile(self, batch: Batch) -> None:
        if self.executor.isCompiled():
            return
        compile_program(self.executor, batch, self.run.name)
        if self.resumed:
            self.executor.rng_state = self.resumed.rng_state

    def _call(self, batch: Batch) -> Any:
        return self.executor(*batch)

    def _set_learning_rate(self) -> float:
        """Schedule and ``setOptimizer`` together: one alone has no effect on the device."""
        factor = learning_rate_factor(
            self.run.schedule, self.step, self.length.steps, self.length.steps_per_epoch
        )
        rate = self.run.optimizer.learning_rate * factor
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.executor.setOptimizer(self.optimizer)
        return rate

    def _finish_epoch(self, record: Dict[str, float], progress: Any) -> bool:
        """Validate if due, log, and write the checkpoint last: what it covers is then there.

        Returns whether the run was told to stop, and is not at its end.
        """
        weights = self._weights()
        if self.average is not None:
            self.average.update(weights)
        checkpoint = self._checkpoint(weights)  # read back before the IPUs change hands
        self._log("train", record)
        line = (
            f"epoch {self.epoch}/{self.length.epochs}  loss {record['loss']:.4f}  "
            f"accuracy {record['accuracy']:.2%}"
        )
        if self.epoch % self.run.training.validate_every == 0 or self.epoch == self.length.epochs:
            score = self._score(weights, self.dataset.validation)
            self._log_score("validation", score)
            line += f"  validation {score.accuracy:.2%}"
        if self.world.is_first:
            progress.write(line + f"  {record['images_per_s']:.0f} images/s (measured)")
            self.directory.checkpoints.save(checkpoint)
        return told_to_stop(self.world, self._stop()) and self.epoch < self.length.epochs

    def _log(self, phase: metrics_file.Phase, values: Mapping[str, float]) -> None:
        if self.world.is_first:
            self.directory.metrics.append(self.step, self.epoch, phase, **values)

    def _log_score(self, phase: Literal["validation", "test"], score: Score) -> None:
        """A loss that is not finite is left out: the weights are sound, or the epoch would not have
        ended, and such a test is no reason to lose them."""
        values = vars(score)
        if not math.isfinite(score.loss):
            values = {"accuracy": score.accuracy}
            if self.world.is_first:
                tqdm.write(
                    f"step {self.step}: the {phase} loss is {score.loss}; metrics have the "
                    "accuracy alone",
                    file=sys.stderr,
                )
        self._log(phase, values)

    def _checkpoint(
        self, weights: Dict[str, Tensor], so_far: Optional[Dict[str, float]] = None
    ) -> Checkpoint:
        calls = int(so_far["calls"]) if so_far is not None else 0
        return Checkpoint(
            step=self.step,
            samples=self.epoch * self.length.samples_per_epoch
            + calls * self.length.samples_per_call,
            epoch=self.epoch,
            config=dump(self.run),
            model=weights,
            optimizer=self.optimizer.state_dict(),
            rng_state=self.executor.rng_state,
            average=self.average.state() if self.average is not None else None,
            so_far=so_far,
        )

    def _weights(self) -> Dict[str, Tensor]:
        """Copies of the network's weights as they are on the device now."""
        state = _of_net(self.executor.model.state_dict())
        return {name: tensor.clone() for name, tensor in state.items()}

    def _score(self, weights: Dict[str, Tensor], split: Any) -> Score:
        """Score the averaged weights, where they are kept; the IPUs change hands meanwhile."""
        if self.average is not None:
            weights = self.average.as_state_dict(weights)
        if any(True for _ in self.net.buffers()):  # running statistics are each instance's own
            weights = shared_weights(self.world, weights)
        if self.executor.isCompiled() and self.executor.isAttachedToDevice():
            self.executor.detachFromDevice()
        self.evaluator.load(weights)
        return self.evaluator.score(split)

    def _test(self) -> Score:
        done: List[Dict[str, Any]] = []
        if self.world.is_first:
            records = metrics_file.read(self.directory.metrics.path)
            done = [record for record in records if record["phase"] == "test"]
        done = self.world.share(done)
        if done:
            return Score(done[-1].get("loss", math.nan), done[-1]["accuracy"])
        score = self._score(self._weights(), self.dataset.test)
        self._log_score("test", score)
        return score

    def _progress(self) -> Any:
        return tqdm(
            total=self.length.steps,
            initial=self.step,
            desc=self.run.name,
            unit="step",
            dynamic_ncols=True,
            # off where nobody watches: files and CI get the lines alone
            disable=None if self.world.is_first else True,
            file=sys.stderr,
        )
