"""Losses that are infinite or not a number: calls that are undone, or the end of the run.

A call whose loss is not finite was made with weights that an earlier update may have spoilt. So the
device goes back to a state from which a call has succeeded where there is one: the newest such
snapshot of the epoch, or the epoch's start. Snapshots are on the host, and belong to one epoch: a
run that is resumed at an epoch's start, or from a snapshot within it, takes the same ones.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional

import torch
from torch import Tensor

from app.training.metrics import DivergedError

_SCALE_FACTOR = "lossScaleUpdateFactor"
"""PopART's name, in an optimiser's state, of what automatic loss scaling has learnt."""


class Kept(NamedTuple):
    """The checkpoints there are when a run ends."""

    good: Optional[Path]
    """The newest that a call has succeeded from; None: there is none."""
    unproved: Optional[Path] = None
    """The newest of all, where no call has succeeded from it yet."""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What an executor has on its device, copied."""

    step: int
    """Weight updates before it, those undone included."""
    so_far: Dict[str, float]
    """What the epoch had come to."""
    model: Dict[str, Tensor]
    """State dict of the training model."""
    optimizer: Dict[str, Tensor]
    """State on the device, by PopART's names."""
    rng_state: List[int]
    """State of the random number generators."""

    @property
    def finite(self) -> bool:
        """Whether every number of it is."""
        return _finite(self.model) and _finite(self.optimizer)


class FiniteCalls:
    """Watches the losses of one epoch's calls, and undoes what spoils them.

    Args:
        executor: compiled before the first call here.
        optimizer: the executor's, one of PopTorch's.
        limit: calls of the whole run that may be undone; with 0, no snapshots are taken.
        snapshot_calls: calls from one snapshot to the next.
        undone: calls undone so far, in earlier epochs.
        remedy: what may help beside the learning rate, for the error; ends with a comma.
    """

    def __init__(
        self,
        executor: Any,
        optimizer: Any,
        limit: int,
        snapshot_calls: int,
        undone: int,
        remedy: str = "",
    ) -> None:
        self.undone = undone
        self._executor = executor
        self._optimizer = optimizer
        self._limit = limit
        self._remedy = remedy
        self._snapshot_calls = snapshot_calls
        self._calls = 0
        # the last one is the newest; one before it stays until a call from the newest succeeds
        self._snapshots: List[Snapshot] = []
        self._newest_proved = False

    def before_call(self, step: int, so_far: Dict[str, float]) -> None:
        """Take a snapshot if one is due; ``step`` weight updates are done, and the epoch has come
        to ``so_far``."""
        due = self._calls % self._snapshot_calls == 0
        self._calls += 1
        if not due or not self._limit:
            return
        if self._snapshots and not self._newest_proved:
            return  # the device has been brought back to it and is still there
        snapshot = self._read(step, so_far)
        if snapshot.finite or not self._snapshots:
            self._snapshots.append(snapshot)
            self._newest_proved = False

    def succeeded(self, losses: Tensor) -> bool:
        """Whether a call's losses are finite: its snapshot is then one to go back to."""
        if not bool(torch.isfinite(losses).all()):
            return False
        self._newest_proved = True
        del self._snapshots[:-1]
        return True

    def state_is_finite(self) -> bool:
        """Whether the weights and the optimiser's state on the device are finite."""
        return _finite(self._executor.model.state_dict()) and _finite(
            self._optimizer.state_dict()["ipu_state"]
        )

    @property
    def proved(self) -> Optional[Snapshot]:
        """The newest that a call has succeeded from, else the first of the epoch; None where
        nothing is ever undone. A run that starts there meets the same calls and undoes the same."""
        if not self._snapshots:
            return None
        return self._snapshots[-1] if self._newest_proved else self._snapshots[0]

    def undo(self, step: int, what: str, kept: Kept) -> str:
        """Bring the device back, and say so in one line.

        Args:
            step: weight updates done, those undone included.
            what: is not finite.
            kept: for the error.

        Raises:
            DivergedError: the limit is used up.
        """
        if self.undone >= self._limit:
            after = ", all that training.non_finite_limit allows" if self._limit else ""
            raised = f"raise training.non_finite_limit to go on {_resumed_from(kept)}, or "
            raise self._end(step, what, after, raised, kept)
        self.undone += 1
        if len(self._snapshots) > 1 and not self._newest_proved:
            self._snapshots.pop()
            self._newest_proved = True
        snapshot = self._snapshots[-1]
        self._write(snapshot)
        return (
            f"step {step}: {what} not finite; the call is undone, back to the state after step "
            f"{snapshot.step}; {self.undone} of at most {self._limit}"
        )

    def diverged(self, step: int, what: str, kept: Kept) -> DivergedError:
        """The end of a run that no limit would let go on, in one sentence; arguments as those of
        ``undo``."""
        return self._end(step, what, "", "", kept)

    def _end(self, step: int, what: str, limited: str, raised: str, kept: Kept) -> DivergedError:
        after = f" after {self.undone} undone call{'s' * (self.undone > 1)}" if self.undone else ""
        return DivergedError(
            f"step {step}: {what} not finite{after}{limited}; {raised}train in another "
            f"--out{_from(kept)} with {self._remedy}a lower optimizer.learning_rate or a longer "
            "schedule.warmup_epochs"
        )

    def _read(self, step: int, so_far: Dict[str, float]) -> Snapshot:
        state: Mapping[str, Tensor] = self._executor.model.state_dict()
        return Snapshot(
            step=step,
            so_far=so_far,
            model={name: tensor.clone() for name, tensor in state.items()},
            optimizer=self._optimizer.state_dict()["ipu_state"],
            rng_state=self._executor.rng_state,
        )

    def _write(self, snapshot: Snapshot) -> None:
        # the state alone: hyper-parameters are the present ones, which the device was told last
        present = self._optimizer.state_dict()
        state = dict(snapshot.optimizer)
        if _SCALE_FACTOR in state:
            # or what overflowed would do so again. The present one may have been lowered for it,
            # or raised since by gradients that are not numbers and so not large
            scale = torch.minimum(state[_SCALE_FACTOR], present["ipu_state"][_SCALE_FACTOR])
            state[_SCALE_FACTOR] = scale / 2
        self._optimizer.set_state_dict({"ipu_state": state, "ipu_param": present["ipu_param"]})
        self._executor.load_state_dict(snapshot.model)
        self._executor.rng_state = snapshot.rng_state


def _resumed_from(kept: Kept) -> str:
    if kept.unproved is not None:
        return f"from {kept.unproved}, from which no call has succeeded"
    if kept.good is not None:
        return f"from the last good checkpoint, {kept.good}"
    return "from the start, as there is no checkpoint yet"


def _from(kept: Kept) -> str:
    """Where another run begins, if not where this one would go on."""
    if kept.unproved is None or kept.good is None:
        return ""
    return f", with training.initial_checkpoint the last good one, {kept.good}, and"


def _finite(tensors: Mapping[str, Tensor]) -> bool:
    return all(
        bool(torch.isfinite(tensor).all())
        for tensor in tensors.values()
        if tensor.is_floating_point()
    )
