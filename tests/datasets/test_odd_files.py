"""Files that are bad or odd: skipped or taken as they are, counted and told of, never fatal."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Set

import pytest
import torch
from torch.utils.data import DataLoader

from app.config.schema import Augmentation, Data
from app.errors import DatasetError
from app.training.loading import odd_images
from datasets import (
    PADDING_LABEL,
    EvaluationSet,
    ImageDataset,
    NoteLog,
    StreamSampler,
    TrainingStream,
    check,
    open_dataset,
    summary,
)
from datasets.draws import permutation
from datasets.notes import HANDLED, SKIPPED, TOLD_PER_KIND, Note
from tests.datasets.pictures_on_disk import SKIPPED_FILES, USED_FILES, write_odd, write_tree
from tests.training.tiny_run import records, train

CROPS = Augmentation(resized_crop=True, horizontal_flip=True)
SKIPPED_EACH = len(SKIPPED_FILES)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    write_tree(root, train=150, val=50, odd=True)
    return root


def opened(root: Path) -> ImageDataset:
    data = Data(name="imagenet", path=str(root), image_size=8, num_classes=3)
    return open_dataset(data, seed=0)


def skipped_indices(dataset: ImageDataset) -> Set[int]:
    split = dataset.train
    names = [str(split.file_name(index)) for index in range(len(split))]
    return {i for i, name in enumerate(names) if any(kind in name for kind in SKIPPED_FILES)}


def test_a_tree_with_every_kind_of_bad_file_trains_to_its_end_and_each_is_told_of_once(
    tree: Path, tmp_path: Path, capfd: "pytest.CaptureFixture[str]"
) -> None:
    """200 files; two epochs of all 150 training images, with workers that read ahead."""
    out = tmp_path / "run"
    score = train(
        out,
        "data.name=imagenet",
        f"data.path={tree}",
        "data.num_classes=3",
        "data.workers=2",
        "data.loader=async",
        "data.worker_batch=5",
        "data.train_images=null",
        "batching.micro_batch=25",
        "batching.device_iterations=1",
        "batching.gradient_accumulation=3",
        "batching.replicas=1",
        "training.epochs=2",
        "augmentation.crop_padding=0",
        "augmentation.resized_crop=true",
    )
    told = capfd.readouterr().err
    for part in ("train", "val"):
        for kind in (*SKIPPED_FILES, *USED_FILES):
            lines = [
                line for line in told.splitlines() if f"/{part}/" in line and f"_{kind}." in line
            ]
            assert len(lines) == 1, (part, kind, lines)
            said = SKIPPED.get(kind) or HANDLED[kind]
            assert said in lines[0] and lines[0].endswith("; skipped") == (kind in SKIPPED)
    for record in records(out, "train"):
        assert record["images_replaced"] == SKIPPED_EACH
        assert {kind: record[f"images_{kind}"] for kind in SKIPPED_FILES} == dict.fromkeys(
            SKIPPED_FILES, 1
        )
        # an odd file is also what stands in where it follows a bad one
        assert all(record[f"images_{kind}"] >= 1 for kind in USED_FILES)
    for epoch in (1, 2):
        assert f"epoch {epoch}: {SKIPPED_EACH} images skipped (1 empty, 1 damaged" in told
    readable = 50 - SKIPPED_EACH
    assert (score.accuracy * readable) == pytest.approx(round(score.accuracy * readable))


def test_the_next_readable_image_of_the_permutation_stands_in(tree: Path) -> None:
    dataset = opened(tree)
    bad = skipped_indices(dataset)
    images = len(dataset.train)
    stream = TrainingStream(dataset.train, 5, images, 2)
    for epoch in range(2):
        order = permutation(5, epoch, images).tolist()
        for position in [p for p in range(images) if order[p] in bad]:
            stand_in = next(i for i in order[position:] + order[:position] if i not in bad)
            image, label = stream[epoch * images + position]
            assert torch.equal(image, dataset.train[stand_in][0])
            assert int(label) == int(dataset.train[stand_in][1])


def epoch_in_batches(dataset: ImageDataset, start: int, workers: int) -> List[torch.Tensor]:
    stream = TrainingStream(dataset.train, 3, len(dataset.train), 1, CROPS)
    loader = DataLoader(stream, 15, sampler=StreamSampler(start, len(stream)), num_workers=workers)
    return [images for images, _ in loader]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_sees_exactly_the_samples_that_were_left(tree: Path, workers: int) -> None:
    whole = epoch_in_batches(opened(tree), 0, 0)
    for start in (0, 45, 135):
        rest = epoch_in_batches(opened(tree), start, workers)
        assert torch.equal(torch.cat(rest), torch.cat(whole)[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_counts_are_of_samples_and_do_not_depend_on_workers(tree: Path, workers: int) -> None:
    dataset = opened(tree)
    log = dataset.train.log
    assert log is not None
    epoch_in_batches(dataset, 0, workers)
    first = log.news()
    assert len(first) == SKIPPED_EACH + len(USED_FILES)
    assert log.news() == []
    epoch_in_batches(dataset, 0, workers)
    assert log.news() == []  # all are known
    order = permutation(3, 0, 150).tolist()
    bad = skipped_indices(dataset)
    at = [position for position in range(150) if order[position] in bad]
    for samples in (range(150), range(75), range(75, 150), range(150, 300)):
        assert odd_images(log, samples)["replaced"] == sum(p in samples for p in at)


def test_an_image_that_cannot_be_read_is_left_out_of_a_test(tree: Path) -> None:
    dataset = opened(tree)
    items = EvaluationSet(dataset.test, 1)
    labels = [int(label) for _, label in (items[index] for index in range(len(items)))]
    assert labels.count(PADDING_LABEL) == SKIPPED_EACH


def test_a_storage_that_is_gone_ends_the_run_in_one_sentence(tmp_path: Path) -> None:
    write_tree(tmp_path, 6, 3, odd=False)
    dataset = opened(tmp_path)
    (tmp_path / "train").rename(tmp_path / "gone")
    stream = TrainingStream(dataset.train, 0, 6, 1)
    with pytest.raises(DatasetError, match=r"^data.path: 6 images in a row cannot be read, the "):
        stream[0]


# ---- the log


def test_notes_reach_the_log_from_where_it_was_sent_to() -> None:
    log = NoteLog()
    elsewhere = pickle.loads(pickle.dumps(log))
    elsewhere.add(Note("a.jpg", "empty"))
    assert log.news() == []
    elsewhere.commit(3)
    log.add(Note("a.jpg", "empty"))
    log.commit(9)
    assert log.news() == ["a.jpg: has no bytes; skipped"]
    assert log.counts(0, 10) == {"replaced": 2, "empty": 2}
    assert log.counts(4, 9) == {"replaced": 0}


def test_a_log_outlives_its_temporary_file() -> None:
    log = NoteLog()
    for number in range(2):
        log.add(Note(f"{number}{number}.jpg", "empty"))
        log.commit(number)
    assert len(log.news()) == 2
    Path(log._path).unlink()
    assert log.news() == []
    log.add(Note("2.jpg", "empty"))
    log.commit(2)
    assert log.news() == ["2.jpg: has no bytes; skipped"]


def test_odd_files_are_named_only_as_long_as_they_are_few() -> None:
    log = NoteLog()
    for number in range(TOLD_PER_KIND + 5):
        log.add(Note(f"{number}.jpg", "greyscale"))
        log.add(Note(f"bad{number}.jpg", "damaged", "cut"))
        log.commit(number)
    news = log.news()
    assert sum("is greyscale" in line for line in news) == TOLD_PER_KIND
    assert sum("only counted" in line for line in news) == 1
    assert sum("cannot be decoded, cut; skipped" in line for line in news) == TOLD_PER_KIND + 5


def test_the_files_of_a_log_go_with_it() -> None:
    log = NoteLog()
    path = Path(log._path)
    assert path.exists()
    del log
    assert not path.exists()


@pytest.mark.parametrize(
    ("counts", "line"),
    [
        ({"replaced": 0}, ""),
        ({}, ""),
        (
            {"replaced": 2, "empty": 1, "damaged": 1, "cmyk": 4},
            "epoch 1: 2 images skipped (1 empty, 1 damaged); odd but used: 4 cmyk",
        ),
    ],
)
def test_the_summary_is_one_line(counts: Dict[str, int], line: str) -> None:
    assert summary(counts, "epoch 1") == line


# ---- the checker


def test_the_checker_lists_every_bad_file_with_its_kind(
    tree: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    assert check.run(tree, threads=2, as_json=True) == 4
    found = json.loads(capsys.readouterr().out)
    assert (found["layout"], found["classes"], found["exit_code"]) == ("class folders", 3, 4)
    for part, images in (("train", 150), ("val", 50)):
        told = found["parts"][part]
        assert (told["images"], told["skipped"], told["faults"]) == (images, SKIPPED_EACH, [])
        assert told["counts"] == dict.fromkeys((*SKIPPED_FILES, *USED_FILES), 1)
        for file in told["files"]:
            assert f"_{file['kind']}." in file["file"]
            assert file["skipped"] == (file["kind"] in SKIPPED)
    assert check.run(tree, threads=1, as_json=False) == 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "train: 150 images, 4 of them cannot be used"
    assert f"  {tree}/train/n01/n01_empty.JPEG: has no bytes; skipped" in lines


def test_the_checker_ends_with_0_where_all_files_can_be_used(
    tmp_path: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    write_tree(tmp_path, 6, 3, odd=False)
    odd = write_odd(tmp_path / "train" / "n01", "cmyk", 0)
    os.rename(odd, os.fsencode(odd.with_name("n01_cmyk_")) + b"\xff.JPEG")  # noqa: PTH104
    assert check.run(tmp_path, threads=1, as_json=False) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{tmp_path}: class folders, 3 classes",
        "train: 7 images, 0 of them cannot be used",
        f"  {tmp_path}/train/n01/n01_cmyk_\\udcff.JPEG: is CMYK, taken as RGB",
        "  in all: 1 cmyk",
        "val: 3 images, 0 of them cannot be used",
    ]


def test_the_checker_counts_what_is_left_out_for_its_ending_or_place(
    tmp_path: Path, capsys: "pytest.CaptureFixture[str]"
) -> None:
    write_tree(tmp_path, 6, 3, odd=False)
    folder = tmp_path / "train" / "n01"
    for path in (folder / "a.webp", folder / "._n01_0000.JPEG", tmp_path / "train" / "loose.JPEG"):
        path.write_bytes(b"")
    (folder / "deeper").mkdir()
    assert check.run(tmp_path, threads=1, as_json=False) == 0
    said = "  4 other files or folders are left out for their ending or place"
    assert capsys.readouterr().out.splitlines()[2] == said
    check.run(tmp_path, threads=1, as_json=True)
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert (parts["train"]["ignored"], parts["val"]["ignored"]) == (4, 0)


def test_the_command_ends_with_2_and_one_sentence_on_a_wrong_layout(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "datasets", "check", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        f"{tmp_path}: has no folder train; name the folder that holds train and val, each with a "
        "folder for every class or with tar shards\n"
    )
