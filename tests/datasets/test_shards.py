"""Tar shards with an index: the same samples as folders, in the same exact order."""

import errno
import io
import os
import tarfile
from pathlib import Path
from typing import Any, List, Tuple

import pytest
import torch
from torch.utils.data import DataLoader

from app.config.schema import Augmentation, Data
from app.errors import ConfigError, DatasetError
from datasets import ImageDataset, StreamSampler, TrainingStream, check, open_dataset, shards
from datasets.shards import open_shards, read_shard
from tests.datasets.pictures_on_disk import add, encoded, photograph, write_shards, write_tree


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Path]:
    """The same images as folders and as shards."""
    folders, packed = tmp_path_factory.mktemp("folders"), tmp_path_factory.mktemp("shards")
    write_tree(folders, train=30, val=6, odd=False)
    write_shards(packed, folders, per_shard=8)
    return folders, packed


def opened(root: Path, **settings: Any) -> ImageDataset:
    data = Data(**{"name": "imagenet", "path": str(root), "image_size": 8, "num_classes": 3,
                   **settings})  # fmt: skip
    return open_dataset(data, seed=0)


def samples(root: Path, start: int, workers: int = 0) -> List[torch.Tensor]:
    split = opened(root).train
    crops = Augmentation(resized_crop=True, horizontal_flip=True)
    stream = TrainingStream(split, 7, 25, 3, crops)
    loader = DataLoader(stream, 5, sampler=StreamSampler(start, len(stream)), num_workers=workers)
    images, labels = zip(*loader)
    return [torch.cat(images), torch.cat(labels)]


def test_shards_give_the_samples_of_folders_bit_for_bit(roots: Tuple[Path, Path]) -> None:
    folders, packed = roots
    one, other = opened(folders), opened(packed)
    assert [one.train.file_name(i) for i in range(30)] == [
        other.train.file_name(i) for i in range(30)
    ]
    for found, expected in zip(samples(packed, 0), samples(folders, 0)):
        assert torch.equal(found, expected)
    for index in range(6):
        assert torch.equal(other.test[index][0], one.test[index][0])
        assert int(other.test[index][1]) == int(one.test[index][1])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_over_shards_is_entered_anywhere(roots: Tuple[Path, Path], workers: int) -> None:
    whole = samples(roots[1], 0)
    for found, expected in zip(samples(roots[1], 35, workers), whole):
        assert torch.equal(found, expected[35:])


def test_headers_are_read_once_and_again_when_a_shard_changes(
    tmp_path: Path, roots: Tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path, roots[0], per_shard=8)
    read: List[str] = []

    def recorded(shard: Path) -> Any:
        read.append(shard.name)
        return read_shard(shard)

    monkeypatch.setattr(shards, "read_shard", recorded)
    first = opened(tmp_path)
    assert len(read) == 5
    second = opened(tmp_path)
    assert len(read) == 5
    assert first.train.file_name(3) == second.train.file_name(3)
    changed = tmp_path / "train" / "train-000001.tar"
    state = changed.stat()
    os.utime(changed, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    opened(tmp_path)
    assert len(read) == 5 + 4  # the part's shards, not those of val
    (tmp_path / "val" / "val.index.npz").write_bytes(b"PK damaged")
    opened(tmp_path)
    assert len(read) == 5 + 4 + 1


def test_an_index_that_cannot_be_kept_is_told_of(
    tmp_path: Path,
    roots: Tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: "pytest.CaptureFixture[str]",
) -> None:
    write_shards(tmp_path, roots[0], per_shard=8)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(shards.np, "savez", refuse)
    assert len(opened(tmp_path).train) == 30
    told = capsys.readouterr().err.splitlines()
    assert told[0] == (
        f"{tmp_path / 'train' / 'train.index.npz'}: cannot be written, Read-only file system; the "
        "shards' headers will be read again at the next start"
    )
    assert not list(tmp_path.glob("*/*npz*"))


def shard_of(path: Path, members: List[Tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            add(tar, name, content)
    return path


def test_the_conventions_of_keys(tmp_path: Path) -> None:
    image = encoded(photograph(0))
    path = shard_of(
        tmp_path / "a.tar",
        [
            ("x/a.b.jpg", image),
            ("x/a.b.cls", b" 2\n"),
            ("x/README", b"0"),
            ("c.JPEG", image),
            ("c.json", b'{"label": 1, "filename": "c.JPEG"}'),
            ("d.cls", b"0"),
            ("d.txt", b"of nothing"),
            ("d.png", image),
        ],
    )
    found, faults = read_shard(path)
    assert [(each.name, each.label) for each in found] == [("x/a.b.jpg", 2), ("c.JPEG", 1),
                                                           ("d.png", 0)]  # fmt: skip
    assert faults == []
    whole = path.read_bytes()
    assert all(whole[each.offset : each.offset + each.length] == image for each in found)


@pytest.mark.parametrize("label", [b"", b"cat", b"-1", b"1.5", b"99999999999"])
def test_an_image_without_a_class_is_left_out_and_told_of(tmp_path: Path, label: bytes) -> None:
    image = encoded(photograph(0))
    members = [("a.jpg", image), ("a.cls", label), ("b.jpg", image), ("b.cls", b"1")]
    path = shard_of(tmp_path / "a.tar", members)
    found, faults = read_shard(path)
    assert [each.name for each in found] == ["b.jpg"]
    assert faults == [
        f"{path}: 1 of 2 images have no class, the first is a.jpg, and are left out; add a.cls"
    ]


IMAGE = encoded(photograph(0))


@pytest.mark.parametrize(
    ("members", "images", "first"),
    [
        ([("a.jpg", IMAGE), ("a.cls", b"1"), ("a.jpg", IMAGE), ("a.cls", b"1")], 2, "a.jpg"),
        ([("a.jpg", IMAGE), ("a.cls", b"1"), ("a.cls", b"2"), ("a.jpg", IMAGE)], 2, "a.jpg"),
        ([("a.png", IMAGE), ("a.jpg", IMAGE), ("a.cls", b"1")], 2, "a.png"),
        ([("a.jpg", IMAGE), ("a.cls", b"1"), ("a.json", b'{"label": 2}')], 1, "a.jpg"),
    ],
)
def test_samples_that_share_a_name_are_left_out_and_told_of(
    tmp_path: Path, members: List[Tuple[str, bytes]], images: int, first: str
) -> None:
    path = shard_of(tmp_path / "a.tar", [*members, ("b.jpg", IMAGE), ("b.cls", b"0")])
    found, faults = read_shard(path)
    assert [(each.name, each.label) for each in found] == [("b.jpg", 0)]
    assert faults == [
        f"{path}: {images} images share their name with another image or have several classes, "
        f"the first is {first}, and are left out; give each sample a name of its own, with one "
        "image and one class"
    ]


def test_a_class_that_is_given_twice_alike_is_no_fault(tmp_path: Path) -> None:
    members = [("a.jpg", IMAGE), ("a.cls", b"1"), ("a.json", b'{"label": 1}')]
    found, faults = read_shard(shard_of(tmp_path / "a.tar", members))
    assert [(each.name, each.label) for each in found] == [("a.jpg", 1)]
    assert faults == []


def test_classes_of_images_that_are_left_out_for_their_ending_are_told_of(tmp_path: Path) -> None:
    members = [("a.webp", b"RIFF"), ("a.cls", b"1"), ("b.jpg", IMAGE), ("b.cls", b"0")]
    path = shard_of(tmp_path / "a.tar", members)
    found, faults = read_shard(path)
    assert [each.name for each in found] == ["b.jpg"]
    assert faults == [
        f"{path}: 1 samples have a class but no image (.jpeg, .jpg, .png), the first is a, and are "
        "left out; store their images as JPEG or PNG"
    ]


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize("call", ["stat", "open", "pread"])
def test_a_storage_that_fails_for_a_while_costs_no_samples_later(
    tmp_path: Path, roots: Tuple[Path, Path], call: str, code: int
) -> None:
    write_shards(tmp_path, roots[0], per_shard=8)

    def refuse(*_: object, **__: object) -> Any:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        if call == "stat":
            patch.setattr(Path, "stat", refuse)
        elif call == "open":
            patch.setattr(Path, "open", refuse)
        else:
            patch.setattr(os, "pread", refuse)
        shard = tmp_path / "train" / "train-000000.tar"
        with pytest.raises(DatasetError) as error:
            open_shards([shard], "train", 8, 1.0)
    assert str(error.value) == (
        f"{shard}: cannot be read, {os.strerror(code)}; see to the storage and the file's "
        "permissions, then start again"
    )
    assert not list(tmp_path.glob("*/*npz*"))
    assert len(opened(tmp_path).train) == 30


@pytest.mark.parametrize(
    "size", [b"\xff" * 12, b"\x80" + b"\x7f" * 11, b"\x80" + b"\0" * 3 + b"\x7f" * 8]
)
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.CONTTYPE, b"Z", b"L", b"x"])
def test_impossible_sizes_in_a_header_are_damage(tmp_path: Path, size: bytes, kind: bytes) -> None:
    path = shard_of(tmp_path / "a.tar", [("b.jpg", IMAGE), ("b.cls", b"0"), ("a.cls", b"1")])
    whole = bytearray(path.read_bytes())
    start = whole.index(b"a.cls")
    header = whole[start : start + 512]
    header[124:136], header[156:157], header[148:156] = size, kind, b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    whole[start : start + 512] = header
    path.write_bytes(whole)
    found, faults = read_shard(path)
    assert [each.name for each in found] == ["b.jpg"]
    assert len(faults) == 1 and faults[0].startswith(f"{path}: is no whole tar file, ")


def test_what_is_whole_of_a_shard_that_is_cut_short_is_used(tmp_path: Path) -> None:
    image = encoded(photograph(0))
    members = [(f"{n}.{e}", c) for n in range(4) for e, c in (("cls", b"1"), ("jpg", image))]
    whole = shard_of(tmp_path / "a.tar", members).read_bytes()
    path = tmp_path / "cut.tar"
    counts = set()
    for end in range(0, len(whole), 512):
        path.write_bytes(whole[: end + 100])
        found, faults = read_shard(path)
        ends = [each.offset + each.length for each in found]
        assert all(end <= path.stat().st_size for end in ends)
        if len(found) < 4:
            assert len(faults) == 1 and faults[0].startswith(f"{path}: is no whole tar file, ")
        counts.add(len(found))
    assert counts == {0, 1, 2, 3, 4}


def test_no_damage_of_a_shard_raises_anything(tmp_path: Path) -> None:
    image = encoded(photograph(0, 8, 8))
    whole = shard_of(tmp_path / "a.tar", [("a.jpg", image), ("a.cls", b"1")]).read_bytes()
    path = tmp_path / "b.tar"
    for place in range(0, 2048, 7):
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        path.write_bytes(bytes(damaged))
        found, _ = read_shard(path)
        assert len(found) <= 1


def test_shards_may_lie_side_by_side(tmp_path: Path, roots: Tuple[Path, Path]) -> None:
    for path in roots[1].glob("*/*.tar"):
        part, number = path.stem.split("-")
        name = f"imagenet1k-{'validation' if part == 'val' else part}-{number}.tar"
        (tmp_path / name).write_bytes(path.read_bytes())
    dataset = opened(tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (30, 6)


def test_labels_beyond_the_configured_classes_are_refused(roots: Tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"has 3 classes, got 2; set data.num_classes: 3"):
        opened(roots[1], num_classes=2)
    assert opened(roots[1], num_classes=1000).num_classes == 1000


def test_shards_without_any_image_are_refused(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "a.tar").write_bytes(b"no tar")
    with pytest.raises(DatasetError) as error:
        opened(tmp_path)
    assert str(error.value) == (
        f"{tmp_path / 'train'}: the shards of train have no image with a label; each must be a tar "
        "file of NAME.jpg and NAME.cls"
    )


def test_bounding_boxes_find_their_images_whatever_their_ending(
    tmp_path: Path, roots: Tuple[Path, Path]
) -> None:
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("n01_0000.jpg,0,0,0.5,0.5\n")
    for root in roots:
        split = opened(root).train
        augmentation = Augmentation(resized_crop=True, bounding_boxes=str(boxes))
        TrainingStream(split, 0, 30, 1, augmentation)  # refuses boxes that name no image


def test_the_checker_names_what_shards_lack(
    tmp_path: Path, roots: Tuple[Path, Path], capsys: "pytest.CaptureFixture[str]"
) -> None:
    write_shards(tmp_path, roots[0], per_shard=8)
    (tmp_path / "train" / "train-000009.tar").write_bytes(io.BytesIO(b"x" * 600).getvalue())
    assert check.run(tmp_path, threads=1, as_json=False) == 4
    out = capsys.readouterr().out
    assert f"{tmp_path}: tar shards, 3 classes" in out
    assert "train-000009.tar: is no whole tar file, " in out
