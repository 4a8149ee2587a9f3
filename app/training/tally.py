"""What an epoch has come to so far: its means, and what a checkpoint in its midst says of it."""

import time
from typing import Dict, Optional

from app.training.agreement import Outcome
from app.training.length import RunLength


class EpochTally:
    """Counts the calls of one epoch.

    Args:
        length: of the run.
        micro_batch: of the run.
        so_far: what a checkpoint in the epoch's midst says; None: at its start.
    """

    def __init__(
        self, length: RunLength, micro_batch: int, so_far: Optional[Dict[str, float]]
    ) -> None:
        self._length = length
        self._micro_batches = length.samples_per_call // micro_batch
        start = so_far or {"calls": 0, "finite": 0, "loss": 0.0, "correct": 0.0}
        self.calls = self._first_calls = int(start["calls"])
        self._finite, self._loss, self._correct = start["finite"], start["loss"], start["correct"]
        self._first_finite = self._finite
        self._started = time.perf_counter()

    def add(self, outcome: Outcome) -> None:
        """Count a call whose loss is finite."""
        self._finite += 1
        # summed over device iterations and accumulation on each replica
        self._loss += outcome.loss / self._micro_batches
        self._correct += outcome.correct

    def means(self, rate: float) -> Dict[str, float]:
        """Over the calls whose loss is finite; none while there are none."""
        if not self._finite:
            return {}
        samples = self._length.samples_per_call
        seconds = time.perf_counter() - self._started
        return {
            "loss": self._loss / self._finite,
            "accuracy": self._correct / (self._finite * samples),
            "learning_rate": rate,
            "images_per_s": (self.calls - self._first_calls) * samples / seconds,
        }

    @property
    def succeeded(self) -> bool:
        """Whether a call has had a finite loss since the checkpoint that it went on from."""
        return self._finite > self._first_finite

    def so_far(self) -> Dict[str, float]:
        """For a checkpoint."""
        return {
            "calls": self.calls,
            "finite": self._finite,
            "loss": self._loss,
            "correct": self._correct,
        }
