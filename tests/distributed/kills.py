"""Kills instances of a run at random moments, and resumes: run by hand.

    python -m tests.distributed.kills --kills 20 --out runs/kills

Any instance, any moment; every third kill strikes while a checkpoint is being written. It fails
where a checkpoint cannot be read, where the other instance does not end in a minute with a sentence
that names the lost one, or where the final weights are not those of an uninterrupted run.
"""

import argparse
import contextlib
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Dict, Sequence

import psutil

from app.distributed.place import INSTANCE
from tests.distributed.instances import BOUND_S, FOUR_REPLICAS, command, require_readable
from tests.training.tiny_run import assert_same_bits, final_checkpoint, records, train


def launched(out: Path, overrides: Sequence[str]) -> "subprocess.Popen[bytes]":
    """``train --instances 2``, what it prints in a file."""
    with out.with_suffix(".txt").open("wb") as file:
        words = command(out, overrides, "--instances", "2")
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT)


def children(launcher: "subprocess.Popen[bytes]") -> Dict[int, psutil.Process]:
    """The instances that are there, by index."""
    with contextlib.suppress(psutil.Error):
        found = psutil.Process(launcher.pid).children()
        # a child that has just been forked has its parent's environment still
        return {int(child.environ().get(INSTANCE, -1)): child for child in found}
    return {}


def strike(
    launcher: "subprocess.Popen[bytes]", out: Path, moment: random.Random, writing: bool
) -> int:
    """Kill an instance, or instance 0 as it writes a checkpoint; returns which."""
    victim = 0 if writing else moment.randrange(2)
    until = time.monotonic() + moment.uniform(0.5, 30.0)
    while launcher.poll() is None:
        there = children(launcher).get(victim)
        due = time.monotonic() > until
        if writing and there is not None:
            due = bool(list(out.glob(f".checkpoint-*.{there.pid}.partial")))
        if there is not None and due:
            with contextlib.suppress(psutil.Error):
                there.kill()
                return victim
        time.sleep(0.0002 if writing else 0.01)
    raise SystemExit("the run ended before it was killed often enough; give it more --epochs")


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill instances at random, and resume.")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/kills"))
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    out, reference = options.out / "killed", options.out / "reference"
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    overrides = (*FOUR_REPLICAS, f"training.epochs={options.epochs}")
    moment = random.Random(options.seed)
    slowest = 0.0
    for kill in range(options.kills):
        launcher = launched(out, overrides)
        victim = strike(launcher, out, moment, writing=kill % 3 == 2)
        killed = time.monotonic()
        code = launcher.wait(BOUND_S)
        slowest = max(slowest, time.monotonic() - killed)
        said = out.with_suffix(".txt").read_text()
        sentences = [line for line in said.splitlines() if line.startswith(f"instance {victim} ")]
        assert code == 5 and len(sentences) == 1, (code, said)
        require_readable(out)
        partial = len(list(out.glob(".checkpoint-*.partial")))
        epochs = len(records(out, "train")) if (out / "metrics.jsonl").exists() else 0
        print(f"{kill + 1}: epochs {epochs}, half-written {partial}; {sentences[0]}", flush=True)
    assert launched(out, overrides).wait(900) == 0, out.with_suffix(".txt").read_text()
    train(reference, *overrides)
    assert_same_bits(final_checkpoint(out), final_checkpoint(reference))
    scores = [[r for r in records(path) if r["phase"] != "train"] for path in (out, reference)]
    assert scores[0] == scores[1]
    print(f"{options.kills} kills; all ended within {slowest:.1f} s; the same bits at the end")


if __name__ == "__main__":
    main()
