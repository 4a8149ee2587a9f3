"""Losses that are infinite or not a number: what is undone, what is said, when the run ends."""

import re
from pathlib import Path
from typing import Any, Collection, List, Tuple

import pytest
import torch
from torch import Tensor, nn

from app.config.schema import Optimizer, Precision
from app.distributed.errors import PreemptedError
from app.sdk import poptorch
from app.training.metrics import DivergedError
from app.training.non_finite import FiniteCalls, Kept
from app.training.optimizers import build_optimizer
from app.training.trainer import Trainer
from tests.training.tiny_run import (
    assert_same_bits,
    checkpoints,
    final_checkpoint,
    records,
    tiny_run,
    train,
)

NAN = float("nan")
NONE = Kept(None)

# ---- on a model of one weight


class Product(nn.Module):
    """The loss is the mean product of weight and input, so the gradient is the mean input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return poptorch.identity_loss(x * self.weight * self.weight, reduction="mean")


def device(name: str = "rmsprop") -> Tuple[Any, Any]:
    """An executor that has made one call, and its optimiser."""
    model = Product()
    config = Optimizer(name, 0.125, weight_decay=0.0)  # type: ignore[arg-type]
    optimizer = build_optimizer(model, config, Precision())
    executor = poptorch.trainingModel(model, poptorch.Options().randomSeed(1), optimizer)
    executor(torch.ones(1))
    return executor, optimizer


def state(executor: Any, optimizer: Any) -> List[Any]:
    weight = executor.model.state_dict()["weight"].clone()
    return [weight, optimizer.state_dict()["ipu_state"], executor.rng_state]


def watched(
    executor: Any, optimizer: Any, inputs: List[float], limit: int = 9, every: int = 1
) -> Tuple[FiniteCalls, List[str]]:
    """The guard after a call for each input, and its lines."""
    guard = FiniteCalls(executor, optimizer, limit, every, undone=0)
    lines = []
    for step, x in enumerate(inputs):
        guard.before_call(step, {})
        if not guard.succeeded(executor(torch.tensor([x]))):
            lines.append(guard.undo(step + 1, "the loss is", NONE))
    return guard, lines


@pytest.mark.parametrize("name", ["rmsprop", "sgd", "adamw"])
@pytest.mark.parametrize("bad", [NAN, float("inf"), -float("inf")])
def test_an_undone_call_leaves_no_trace_on_the_device(name: str, bad: float) -> None:
    one, other = device(name), device(name)
    guard, lines = watched(*one, [bad, 0.25])
    watched(*other, [0.25])
    assert_same_bits(state(*one), state(*other))
    assert guard.undone == 1
    assert lines == [
        "step 1: the loss is not finite; the call is undone, back to the state after step 0; "
        "1 of at most 9"
    ]


def test_a_state_from_which_no_call_has_succeeded_is_the_last_choice() -> None:
    one, other = device(), device()
    _, lines = watched(*one, [0.5, NAN, NAN, 0.25])  # the first update may be what is wrong
    watched(*other, [0.25])
    assert_same_bits(state(*one), state(*other))
    assert [re.findall(r"after step (\d)", line) for line in lines] == [["0"], ["0"]]


def test_calls_since_the_snapshot_are_undone_with_the_bad_one() -> None:
    one, other = device(), device()
    _, lines = watched(*one, [0.5, 0.25, 0.75, NAN, 0.125], every=2)
    watched(*other, [0.5, 0.25, 0.125])
    assert_same_bits(state(*one), state(*other))
    assert ["back to the state after step 2" in line for line in lines] == [True]


def overflow(executor: Any) -> None:
    """Spoil the weight as an update does whose gradient overflowed."""
    executor.load_state_dict({"weight": torch.tensor([NAN])})


def make_huge(executor: Any) -> None:
    """A weight that is finite, and whose loss is not."""
    executor.load_state_dict({"weight": torch.tensor([1e30])})


@pytest.mark.parametrize("spoil", [overflow, make_huge])
def test_a_state_spoilt_by_an_update_with_a_finite_loss_is_not_gone_back_to(spoil: Any) -> None:
    executor, optimizer = device()
    guard = FiniteCalls(executor, optimizer, limit=9, snapshot_calls=1, undone=0)
    guard.before_call(0, {})
    good = state(executor, optimizer)
    assert guard.succeeded(executor(torch.ones(1)))
    spoil(executor)
    guard.before_call(1, {})
    assert not guard.succeeded(executor(torch.ones(1)))
    assert guard.undo(2, "the loss is", NONE).startswith("step 2: the loss is not finite; the call")
    assert_same_bits(state(executor, optimizer), good)


def test_a_spoilt_optimizer_state_is_not_gone_back_to() -> None:
    executor, optimizer = device()
    guard = FiniteCalls(executor, optimizer, limit=9, snapshot_calls=1, undone=0)
    guard.before_call(0, {})
    good = state(executor, optimizer)
    assert guard.succeeded(executor(torch.ones(1)))
    spoilt = optimizer.state_dict()
    for tensor in spoilt["ipu_state"].values():
        tensor.fill_(float("inf"))
    optimizer.set_state_dict(spoilt)
    guard.before_call(1, {})
    assert guard.succeeded(executor(torch.ones(1)))  # a finite loss, and then a weight that is not
    assert not guard.state_is_finite()
    guard.undo(2, "what the last update made is", NONE)
    assert_same_bits(state(executor, optimizer), good)


def test_a_start_that_no_batch_gets_on_from_uses_the_limit_up() -> None:
    executor, optimizer = device()
    with pytest.raises(DivergedError, match=r"^step 4: .* after 3 undone calls"):
        watched(executor, optimizer, [NAN, NAN, NAN, NAN], limit=3)


def test_the_hyper_parameters_of_now_outlast_an_undone_call() -> None:
    executor, optimizer = device("sgd")
    guard = FiniteCalls(executor, optimizer, limit=1, snapshot_calls=9, undone=0)
    guard.before_call(0, {})
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    executor.setOptimizer(optimizer)
    assert not guard.succeeded(executor(torch.tensor([NAN])))
    guard.undo(1, "the loss is", NONE)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5]
    weight, velocity = (float(t) for t in (state(executor, optimizer)[0], *_velocity(optimizer)))
    executor(torch.ones(1))
    moved = 0.9 * velocity + 2 * weight
    assert float(executor.model.state_dict()["weight"]) == pytest.approx(weight - 0.5 * moved)


def _velocity(optimizer: Any) -> Collection[Tensor]:
    found: Collection[Tensor] = optimizer.state_dict()["ipu_state"].values()
    return found


def test_a_loss_scaling_that_overflowed_stays_lowered() -> None:
    model = Product().half()
    optimizer = build_optimizer(
        model, Optimizer("sgd", 0.125), Precision(types="16.16", loss_scaling=2.0**14)
    )
    options = poptorch.Options().randomSeed(1)
    options.Training.setAutomaticLossScaling(True)
    executor = poptorch.trainingModel(model, options, optimizer)
    executor(torch.full((1,), 0.25, dtype=torch.half))

    def scale() -> float:
        return float(optimizer.state_dict()["ipu_state"]["lossScaleUpdateFactor"])

    guard = FiniteCalls(executor, optimizer, limit=9, snapshot_calls=9, undone=0)
    guard.before_call(1, {})
    before = scale()
    executor(torch.full((1,), 64.0, dtype=torch.half))  # its gradient exceeds what half holds
    assert scale() == before / 2
    executor(torch.full((1,), NAN, dtype=torch.half))  # and of the next one nothing is large
    assert scale() == before
    guard.undo(3, "the loss is", NONE)
    assert scale() == before / 2
    executor(torch.full((1,), NAN, dtype=torch.half))
    guard.undo(4, "the loss is", NONE)
    assert scale() <= before / 2


def test_without_a_limit_nothing_is_read_from_the_device() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(name)

    guard = FiniteCalls(Untouchable(), Untouchable(), limit=0, snapshot_calls=1, undone=0)
    guard.before_call(0, {})
    assert guard.succeeded(torch.ones(2))
    assert not guard.succeeded(torch.tensor([1.0, NAN]))
    with pytest.raises(DivergedError):
        guard.undo(1, "the loss is", NONE)


def test_undone_calls_are_counted_where_the_limit_is_not_used_up() -> None:
    guard = FiniteCalls(None, None, limit=9, snapshot_calls=1, undone=3, remedy="less of it, ")
    kept = Kept(Path("r/checkpoint-000000001.pt"), unproved=Path("r/checkpoint-000000003.pt"))
    # a higher limit would change nothing
    assert str(guard.diverged(4, "every loss of the epoch is", kept)) == (
        "step 4: every loss of the epoch is not finite after 3 undone calls; train in another "
        "--out, with training.initial_checkpoint the last good one, r/checkpoint-000000001.pt, and "
        "with less of it, a lower optimizer.learning_rate or a longer schedule.warmup_epochs"
    )


@pytest.mark.parametrize(
    ("limit", "kept", "sentence"),
    [
        (
            0,
            NONE,
            "step 7: the loss is not finite; raise training.non_finite_limit to go on from the "
            "start, as there is no checkpoint yet, or train in another --out with a lower "
            "optimizer.learning_rate or a longer schedule.warmup_epochs",
        ),
        (
            1,
            Kept(Path("runs/x/checkpoint-000000003.pt")),
            "step 7: the loss is not finite after 1 undone call, all that "
            "training.non_finite_limit allows; raise training.non_finite_limit to go on from the "
            "last good checkpoint, runs/x/checkpoint-000000003.pt, or train in another --out with "
            "a lower optimizer.learning_rate or a longer schedule.warmup_epochs",
        ),
        (
            0,
            Kept(None, unproved=Path("runs/x/checkpoint-000000003.pt")),
            "step 7: the loss is not finite; raise training.non_finite_limit to go on from "
            "runs/x/checkpoint-000000003.pt, from which no call has succeeded, or train in another "
            "--out with a lower optimizer.learning_rate or a longer schedule.warmup_epochs",
        ),
    ],
)
def test_the_end_is_one_sentence(limit: int, kept: Kept, sentence: str) -> None:
    guard = FiniteCalls(None, None, limit, snapshot_calls=1, undone=limit)
    with pytest.raises(DivergedError) as ended:
        guard.undo(7, "the loss is", kept)
    assert str(ended.value) == sentence


# ---- in a run

RUN = [
    "batching={micro_batch: 2, gradient_accumulation: 3}",
    "data.num_images=18",
    "training.keep_checkpoints=9",
    "training.non_finite_limit=2",
    "training.snapshot_calls=1",
]
"""Three calls an epoch, two epochs."""


def spoil_calls(monkeypatch: pytest.MonkeyPatch, steps: Collection[int], weights: bool) -> None:
    """The calls that begin after these steps spoil the weights, or give a loss that is NaN."""
    call = Trainer._call

    def spoilt(self: Trainer, batch: Any) -> Any:
        loss, correct = call(self, batch)
        if self.step not in steps:
            return loss, correct
        if weights:
            state = {name: torch.full_like(t, NAN) for name, t in self._weights().items()}
            self.executor.load_state_dict({f"net.{name}": t for name, t in state.items()})
            return loss, correct
        return loss * NAN, correct

    monkeypatch.setattr(Trainer, "_call", spoilt)


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    call = Trainer._call

    def stopped(self: Trainer, batch: Any) -> Any:
        if self.step == step:
            raise KeyboardInterrupt
        return call(self, batch)

    monkeypatch.setattr(Trainer, "_call", stopped)


def undone(out: Path) -> List[Tuple[int, float, int]]:
    return [(r["step"], r["epoch"], r["count"]) for r in records(out, "undone")]


@pytest.mark.long
@pytest.mark.parametrize(
    ("steps", "weights", "expected"),
    [
        ({1, 5}, False, [(2, pytest.approx(2 / 3), 1), (6, 2.0, 2)]),
        # the call after it is undone; nothing follows the last one of an epoch
        ({0, 2}, True, [(2, pytest.approx(2 / 3), 1), (3, 1.0, 2)]),
    ],
)
def test_a_run_passes_over_bad_calls_and_resumes_to_the_same_bits(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    steps: Collection[int],
    weights: bool,
    expected: List[Any],
) -> None:
    spoil_calls(monkeypatch, steps, weights)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    score = train(whole, *RUN)
    assert undone(whole) == expected
    err = capsys.readouterr().err
    said = re.findall(r"^step (\d+): .* not finite; the call is undone", err, re.M)
    assert [int(step) for step in said] == [step for step, _, _ in expected]
    assert [(c.step, c.epoch) for c in checkpoints(whole)] == [(3, 1), (6, 2)]
    assert all(t.isfinite().all() for c in checkpoints(whole) for t in c.model.values())
    for step in (2, 5):  # in the midst of each epoch, after what was undone in it
        with monkeypatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(KeyboardInterrupt):
                train(resumed, *RUN)
    assert train(resumed, *RUN) == score
    assert records(resumed) == records(whole)
    assert_same_bits(final_checkpoint(resumed), final_checkpoint(whole))


@pytest.mark.long
@pytest.mark.parametrize("every", [1, 2, 9])
def test_a_signal_in_the_midst_of_an_epoch_changes_nothing_where_calls_are_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    run = [*RUN, "data.num_images=36", f"training.snapshot_calls={every}"]  # six calls an epoch
    # one spoils the weights, which the next one shows; a later one is bad in itself
    spoil_calls(monkeypatch, {2}, weights=True)
    spoil_calls(monkeypatch, {9}, weights=False)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    score = train(whole, *run)
    assert len(undone(whole)) == 2
    for step in (2, 3, 4, 9, 10):
        with pytest.raises(PreemptedError, match=f"^stopped by SIGTERM after step {step} of 12"):
            train_until(resumed, step, *run)
    assert train(resumed, *run) == score
    assert records(resumed) == records(whole)
    assert_same_bits(final_checkpoint(resumed), final_checkpoint(whole))


def train_until(out: Path, step: int, *overrides: str) -> None:
    """Train with a signal that comes while the update is made that ends at a step."""
    trainer = Trainer(tiny_run(*overrides), out, stop=lambda: trainer.step + 1 >= step)
    trainer.fit()


def test_one_bad_call_more_than_the_limit_ends_a_run_also_when_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_calls(monkeypatch, {0, 3, 4}, weights=False)
    for _ in range(2):
        with pytest.raises(DivergedError) as ended:
            train(tmp_path, *RUN)
        assert str(ended.value) == (
            "step 5: the loss is not finite after 2 undone calls, all that "
            "training.non_finite_limit allows; raise training.non_finite_limit to go on from "
            f"{tmp_path / 'checkpoint-000000003.pt'}, from which no call has succeeded, or train "
            "in another --out with a lower optimizer.learning_rate or a longer "
            "schedule.warmup_epochs"
        )


def test_weights_that_are_not_finite_reach_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_calls(monkeypatch, {2}, weights=True)
    with pytest.raises(DivergedError, match="what the last update made is not finite; raise "):
        train(tmp_path, *RUN, "training.non_finite_limit=0")
    assert checkpoints(tmp_path) == []


def test_an_epoch_without_a_finite_loss_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil_calls(monkeypatch, {0, 1, 2}, weights=False)
    with pytest.raises(
        DivergedError, match=r"^step 3: every loss of the epoch .* undone calls; train in another "
    ):
        train(tmp_path, *RUN, "training.non_finite_limit=3")
