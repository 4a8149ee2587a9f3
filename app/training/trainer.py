"""The training loop: an ordinary PopTorch program that can be killed at any moment and resumed."""

import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Optional, Tuple

import torch
from torch import Tensor
from tqdm import tqdm

from app import backend
from app.config.loader import dump
from app.config.schema import Run
from app.errors import CheckpointError, ConfigError, MisfitError
from app.nets import build_net
from app.sdk import poptorch
from app.training import metrics as metrics_file
from app.training.averaging import WeightAverage
from app.training.checkpoints import Checkpoint, CheckpointStore
from app.training.curves import MEASURED_BY, plot_curves
from app.training.device_models import training_model
from app.training.evaluation import Evaluator, Score
from app.training.length import RunLength
from app.training.loading import loaded
from app.training.non_finite import FiniteCalls
from app.training.optimizers import build_optimizer
from app.training.placement import place, training_options
from app.training.run_directory import RunDirectory, follow, stored_plan
from app.training.samples import training_samples
from app.training.schedule import learning_rate_factor
from app.training.weights import load_initial
from datasets import ImageDataset, StreamSampler, open_dataset

Batch = Tuple[Tensor, ...]
"""Images and labels of one call, and how to mix them where the run mixes."""

Planner = Callable[[Run], str]


def _refuse_untrainable(run: Run) -> None:
    if run.planning.mode != "training":
        raise ConfigError(
            "planning.mode: the run is one for inference, which cannot be trained; plan it for "
            "training"
        )
    if run.model.norm.kind == "online" and run.batching.replicas > 1:
        raise ConfigError(
            "batching.replicas: online norm has streams on each replica, of which a checkpoint "
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


class Trainer:
    """One run in one directory: continues from its newest checkpoint, or starts.

    Args:
        run: the configuration.
        out: the run's directory.
        planner: makes the run file of a run with ``plan: auto``, which is planned once: what was
            planned stays in the directory.

    ``run``, as an attribute, is what is trained: the planned run where there is a plan.

    Raises:
        AppError: whatever the user can mend, before the first step where it can be known by then.
    """

    def __init__(self, run: Run, out: Path, planner: Optional[Planner] = None) -> None:
        _refuse_untrainable(run)
        plan = _plan(run, out, planner) if run.plan == "auto" else None
        asked, run = run, run if plan is None else follow(run, plan, out / "plan.yml")
        self.run = run
        self.dataset: ImageDataset = open_dataset(run.data, run.seed)
        self.length = RunLength(run, len(self.dataset.train))
        torch.manual_seed(run.seed)
        self.net = build_net(run.model, self.dataset.num_classes, self.dataset.channels)
        place(self.net, run)
        model = training_model(run, self.net, self.dataset.channels)
        if run.training.initial_checkpoint and CheckpointStore(out, keep=1).latest() is None:
            load_initial(self.net, run.model, Path(run.training.initial_checkpoint))
        self.optimizer = build_optimizer(model, run.optimizer, run.precision)
        self.options = training_options(run)
        self.evaluator = Evaluator(run, self.dataset)
        self.epoch = self.step = 0
        self.average: Optional[WeightAverage] = (
            WeightAverage(run.training.average_decay) if run.training.average_decay else None
        )
        with ExitStack() as on_failure:
            self.directory = on_failure.enter_context(RunDirectory(out, asked, plan))
            self.resumed = self._restore()
            on_failure.pop_all()
        self.executor = poptorch.trainingModel(model, self.options, self.optimizer)

    def _restore(self) -> Optional[Checkpoint]:
        checkpoint = self.directory.newest_checkpoint()
        self.directory.metrics.truncate_after(checkpoint.step if checkpoint else -1)
        if checkpoint is None:
            return None
        if checkpoint.samples != checkpoint.epoch * self.length.samples_per_epoch:
            raise CheckpointError(
                f"{self.directory.path}: was started with another number of training images; "
                "restore the dataset, or choose another --out"
            )
        self.net.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.step, self.epoch = checkpoint.step, checkpoint.epoch
        if self.average is not None and checkpoint.average is not None:
            self.average.restore(checkpoint.average)
        return checkpoint

    def fit(self) -> Score:
        """Train to the end, then score the final weights on the test split."""
        with self.directory:
            self._train()
            score = self._test()
            records = metrics_file.read(self.directory.metrics.path)
            footnote = MEASURED_BY[backend.chosen()]
            plot_curves(records, self.directory.curve, self.run.name, footnote)
        return score

    def _train(self) -> None:
        if self.epoch >= self.length.epochs:  # nothing is left to load, which a loader refuses
            return
        loader = self._loader()
        try:
            batches = loaded(loader, self.run.data.name)
            with self._progress() as progress:
                while self.epoch < self.length.epochs:
                    record = self._train_epoch(batches, progress)
                    self.epoch += 1
                    self._finish_epoch(record, progress)
        finally:
            loader.terminate()

    def _loader(self) -> Any:
        data = self.run.data
        stream = training_samples(self.run, self.dataset.train, self.length.samples_per_epoch)
        modes = {"sync": poptorch.DataLoaderMode.Sync, "async": poptorch.DataLoaderMode.Async}
        start = self.resumed.samples if self.resumed else 0
        return poptorch.DataLoader(
            self.options,
            stream,
            self.run.batching.micro_batch,
            sampler=StreamSampler(start, self.length.samples),
            num_workers=data.workers,
            mode=modes[data.loader],
            async_options={"load_indefinitely": False} if data.loader == "async" else None,
        )

    def _train_epoch(self, batches: Iterator[Batch], progress: Any) -> Dict[str, float]:
        """One epoch of calls; the means over those whose loss is finite."""
        loss = correct = 0.0
        finite = 0
        means: Dict[str, float] = {}
        guard = self._guard()
        started = time.perf_counter()
        for call in range(1, self.length.calls_per_epoch + 1):
            batch = next(batches)
            self._compile(batch)
            guard.before_call(self.step)
            rate = self._set_learning_rate()
            call_loss, call_correct = self._call(batch)
            self.step += self.run.batching.device_iterations
            progress.update(self.run.batching.device_iterations)
            if not guard.succeeded(call_loss):
                self._undo(guard, "the loss is", call, progress)
                continue
            finite += 1
            # summed over device iterations and accumulation on each replica
            micro_batches = self.length.samples_per_call // self.run.batching.micro_batch
            loss += float(call_loss.sum()) / micro_batches
            correct += float(call_correct.sum())
            means = {
                "loss": loss / finite,
                "accuracy": correct / (finite * self.length.samples_per_call),
                "learning_rate": rate,
                "images_per_s": call
                * self.length.samples_per_call
                / (time.perf_counter() - started),
            }
            progress.set_postfix_str(
                f"loss {means['loss']:.3f}, accuracy {means['accuracy']:.1%}, "
                f"{means['images_per_s']:.0f} images/s"
            )
        if not means:
            raise guard.diverged(self.step, "every loss of the epoch is", self._newest_checkpoint())
        # the last update has met no loss yet, and a checkpoint must not hold what spoils the next
        if not guard.state_is_finite(self.step):
            self._undo(guard, "what the last update made is", self.length.calls_per_epoch, progress)
        return means

    def _guard(self) -> FiniteCalls:
        """What watches one epoch's losses; calls undone before are those in the metrics."""
        records = metrics_file.read(self.directory.metrics.path)
        undone = sum(record["phase"] == "undone" for record in records)
        training = self.run.training
        return FiniteCalls(
            self.executor,
            self.optimizer,
            training.non_finite_limit,
            training.snapshot_calls,
            undone,
            "a lower precision.loss_scaling, " if self.run.precision.loss_scaling > 1 else "",
        )

    def _undo(self, guard: FiniteCalls, what: str, call: int, progress: Any) -> None:
        line = guard.undo(self.step, what, self._newest_checkpoint())
        progress.write(line, file=sys.stderr)
        epoch = self.epoch + call / self.length.calls_per_epoch
        self.directory.metrics.append(self.step, epoch, "undone", count=guard.undone)

    def _newest_checkpoint(self) -> Optional[Path]:
        return self.directory.checkpoints.latest()

    def _compile(self, batch: Batch) -> None:
        if self.executor.isCompiled():
            return
        try:
            self.executor.compile(*batch)
        except poptorch.Error as error:
            refusal = MisfitError if "Out of memory" in str(error) else ConfigError
            raise refusal(f"{self.run.name}: does not compile: {error}") from error
        except ValueError as error:
            raise ConfigError(f"{self.run.name}: does not compile: {error}") from error
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

    def _finish_epoch(self, record: Dict[str, float], progress: Any) -> None:
        """Validate if due, log, and write the checkpoint last: what it covers is then there."""
        weights = self._weights()
        if self.average is not None:
            self.average.update(weights)
        checkpoint = self._checkpoint(weights)  # read back before the IPUs change hands
        log = self.directory.metrics
        log.append(self.step, self.epoch, "train", **record)
        line = (
            f"epoch {self.epoch}/{self.length.epochs}  loss {record['loss']:.4f}  "
            f"accuracy {record['accuracy']:.2%}"
        )
        if self.epoch % self.run.training.validate_every == 0 or self.epoch == self.length.epochs:
            score = self._score(weights, self.dataset.validation)
            self._log_score("validation", score)
            line += f"  validation {score.accuracy:.2%}"
        progress.write(line + f"  {record['images_per_s']:.0f} images/s (measured)")
        self.directory.checkpoints.save(checkpoint)

    def _log_score(self, phase: Literal["validation", "test"], score: Score) -> None:
        """A loss that is not finite is left out: the weights are sound, or the epoch would not have
        ended, and such a test is no reason to lose them."""
        values = vars(score)
        if not math.isfinite(score.loss):
            values = {"accuracy": score.accuracy}
            tqdm.write(
                f"step {self.step}: the {phase} loss is {score.loss}; metrics have the accuracy "
                "alone",
                file=sys.stderr,
            )
        self.directory.metrics.append(self.step, self.epoch, phase, **values)

    def _checkpoint(self, weights: Dict[str, Tensor]) -> Checkpoint:
        return Checkpoint(
            step=self.step,
            samples=self.epoch * self.length.samples_per_epoch,
            epoch=self.epoch,
            config=dump(self.run),
            model=weights,
            optimizer=self.optimizer.state_dict(),
            rng_state=self.executor.rng_state,
            average=self.average.state() if self.average is not None else None,
        )

    def _weights(self) -> Dict[str, Tensor]:
        """Copies of the network's weights as they are on the device now."""
        state = self.executor.model.state_dict()
        prefix = "net."
        return {k[len(prefix) :]: v.clone() for k, v in state.items() if k.startswith(prefix)}

    def _score(self, weights: Dict[str, Tensor], split: Any) -> Score:
        """Score the averaged weights, where they are kept; the IPUs change hands meanwhile."""
        if self.average is not None:
            weights = self.average.as_state_dict(weights)
        if self.executor.isCompiled() and self.executor.isAttachedToDevice():
            self.executor.detachFromDevice()
        self.evaluator.load(weights)
        return self.evaluator.score(split)

    def _test(self) -> Score:
        records = metrics_file.read(self.directory.metrics.path)
        done: List[Dict[str, Any]] = [r for r in records if r["phase"] == "test"]
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
            disable=None,  # off where nobody watches: files and CI get the lines alone
            file=sys.stderr,
        )
