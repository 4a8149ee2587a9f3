"""Scoring checkpoints: ``python -m app validate``."""

import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from app.config.loader import load_text
from app.config.schema import Run
from app.training.checkpoints import read_checkpoint
from app.training.evaluation import Evaluator
from app.training.sizes import at_size, stride_of, warn_of_size
from app.training.weights import Which, checkpoint_file, mismatch, weights_of
from datasets import open_dataset


def validate(
    paths: Sequence[Path],
    run: Optional[Run],
    split: str,
    weights: Which,
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
    return [_score(checkpoint_file(path), run, split, weights, image_size) for path in paths]


def _score(
    path: Path, run: Optional[Run], split: str, weights: Which, image_size: Optional[int]
) -> Dict[str, Any]:
    checkpoint = read_checkpoint(path)
    run = run or load_text(checkpoint.config, f"{path}, its configuration")
    if image_size is not None and image_size != run.data.image_size:
        warn_of_size("--image-size", image_size, run.data.image_size, stride_of(run.model))
        run = at_size(run, "--image-size", image_size)
    chosen = weights_of(checkpoint, weights)
    dataset = open_dataset(run.data, run.seed)
    evaluator = Evaluator(run, dataset)
    try:
        evaluator.load(chosen.state)
    except RuntimeError as error:
        remedy = "leave --config out to use the checkpoint's own"
        raise mismatch(path, run.model, error, remedy) from error
    score = evaluator.score(getattr(dataset, split))
    return {
        "checkpoint": str(path),
        "split": split,
        "weights": chosen.which,
        "image_size": run.data.image_size,
        **vars(score),
    }


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
