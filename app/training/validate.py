"""Scoring checkpoints: ``python -m app validate``."""

import json
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from torch import Tensor

from app.config.loader import load_text
from app.config.schema import FieldError, Run
from app.errors import CheckpointError, ConfigError
from app.nets import build_net, compatible_sizes, downsampling
from app.training.averaging import WeightAverage
from app.training.checkpoints import Checkpoint, CheckpointStore, read_checkpoint
from app.training.evaluation import Evaluator
from datasets import open_dataset

LARGEST_TEST_SIZE = 700
"""Pixels up to which sizes are proposed, as far as arXiv 2106.03640 tested."""


def validate(
    paths: Sequence[Path],
    run: Optional[Run],
    split: str,
    weights: str,
    image_size: Optional[int],
) -> List[Dict[str, Any]]:
    """Score every checkpoint on a split.

    Args:
        paths: checkpoints, or run directories for their newest.
        run: configuration to use instead of the one each checkpoint carries.
        split: ``validation`` or ``test``.
        weights: ``average`` (the last ones where there is none) or ``last``.
        image_size: side in pixels to test at instead of the training size.

    Returns:
        One record per checkpoint: checkpoint, split, weights, image_size, loss, accuracy.

    Raises:
        CheckpointError: a path that holds no checkpoint, or one of another network.
    """
    return [_score(_checkpoint_file(path), run, split, weights, image_size) for path in paths]


def _score(
    path: Path, run: Optional[Run], split: str, weights: str, image_size: Optional[int]
) -> Dict[str, Any]:
    checkpoint = read_checkpoint(path)
    run = run or load_text(checkpoint.config, f"{path}, its configuration")
    if image_size is not None and image_size != run.data.image_size:
        run = _at_size(run, image_size)
    averaged = weights == "average" and checkpoint.average is not None
    dataset = open_dataset(run.data, run.seed)
    evaluator = Evaluator(run, dataset)
    try:
        evaluator.load(_averaged(checkpoint) if averaged else checkpoint.model)
    except RuntimeError as error:
        differences = textwrap.shorten(" ".join(str(error).splitlines()[1:]), 160)
        raise CheckpointError(
            f"{path}: does not fit {run.model.name} as configured ({differences}); "
            "leave --config out to use the checkpoint's own"
        ) from error
    score = evaluator.score(getattr(dataset, split))
    return {
        "checkpoint": str(path),
        "split": split,
        "weights": "average" if averaged else "last",
        "image_size": run.data.image_size,
        **vars(score),
    }


def _checkpoint_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    newest = CheckpointStore(path, keep=1).latest()
    if newest is None:
        raise CheckpointError(f"{path}: holds no checkpoint; give a run directory or a file")
    return newest


def _averaged(checkpoint: Checkpoint) -> Dict[str, Tensor]:
    average = WeightAverage(decay=0.0)
    average.restore(checkpoint.average or {})
    return average.as_state_dict(checkpoint.model)


def _at_size(run: Run, image_size: int) -> Run:
    """The same run at another size, with a warning where down-sampling falls on other pixels."""
    stride = downsampling(build_net(run.model, num_classes=2))
    sizes = compatible_sizes(run.data.image_size, stride, LARGEST_TEST_SIZE)
    if image_size % stride != run.data.image_size % stride and sizes:
        nearest = sorted(sorted(sizes, key=lambda size: abs(size - image_size))[:2])
        print(
            f"--image-size {image_size}: differs from the training size {run.data.image_size} "
            f"modulo {stride}, which costs accuracy; the nearest sizes that do not are "
            f"{' and '.join(map(str, nearest))}",
            file=sys.stderr,
        )
    try:
        return replace(run, data=replace(run.data, image_size=image_size))
    except FieldError as error:
        raise ConfigError(f"--image-size {image_size}: {error}; give another size") from error


def print_scores(records: Sequence[Dict[str, Any]], as_json: bool) -> None:
    """Write records for people, or as one JSON object."""
    if as_json:
        print(json.dumps({"scores": list(records)}))
        return
    for record in records:
        print(
            f"{record['checkpoint']}: {record['split']} accuracy {record['accuracy']:.2%}, loss "
            f"{record['loss']:.4f} ({record['weights']} weights, {record['image_size']} px, "
            "measured)"
        )
