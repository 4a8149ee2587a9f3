"""ImageNet in folders, as small ones made here."""

from pathlib import Path
from typing import Any, Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from app.config.schema import Augmentation, Data
from app.errors import AppError, ConfigError, DatasetError
from datasets import ImageDataset, StreamSampler, TrainingStream, open_dataset
from datasets.class_folders import open_folders
from datasets.crops import Box

CLASSES = ("n02", "n01", "n10")  # not in order


def write_image(path: Path, level: int, size: Sequence[int] = (24, 16)) -> None:
    """Of one grey level, and brighter by 40 in its right half."""
    image = Image.new("RGB", (size[0], size[1]), (level,) * 3)
    image.paste((level + 40,) * 3, (size[0] // 2, 0, size[0], size[1]))
    image.save(path, "PNG" if path.suffix == ".png" else "JPEG", quality=95)


def write_class(folder: Path, level: int, count: int = 3) -> None:
    folder.mkdir(parents=True)
    for number in reversed(range(count)):
        write_image(folder / f"{folder.name}_{number}.JPEG", level + 10 * number)


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    for level, name in enumerate(CLASSES):
        write_class(tmp_path / "train" / name, 60 * level)
        write_class(tmp_path / "val" / name, 60 * level, count=1)
    return tmp_path


def data(root: Path, **settings: Any) -> Data:
    return Data(
        **{"name": "imagenet", "path": str(root), "image_size": 8, "num_classes": 3, **settings}
    )


def opened(root: Path, **settings: Any) -> ImageDataset:
    return open_dataset(data(root, **settings), seed=0)


def refusal(root: Path, **settings: Any) -> AppError:
    with pytest.raises(AppError) as error:
        opened(root, **settings)
    return error.value


def test_images_come_in_the_order_of_their_classes_and_names(root: Path) -> None:
    dataset = opened(root)
    assert (dataset.name, dataset.num_classes, dataset.channels) == ("imagenet", 3, 3)
    train = dataset.train
    names = [f"{c}_{n}.JPEG" for c in sorted(CLASSES) for n in range(3)]
    assert [train.file_name(index) for index in range(len(train))] == names
    assert [int(train[index][1]) for index in range(9)] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    levels = [60, 70, 80, 0, 10, 20, 120, 130, 140]
    for index, level in enumerate(levels):
        image, label = train[index]
        assert (image.dtype, image.shape) == (torch.uint8, (3, 8, 8))
        assert (label.dtype, label.shape) == (torch.int64, ())
        assert int((image[:, :, :3].int() - level).abs().max()) <= 4
        assert int((image[:, :, 5:].int() - level - 40).abs().max()) <= 4


def test_the_held_out_images_serve_for_validation_and_test(root: Path) -> None:
    dataset = opened(root)
    assert len(dataset.train) == 9 and len(dataset.test) == 3
    assert dataset.validation is dataset.test
    assert [int(dataset.test[index][1]) for index in range(3)] == [0, 1, 2]


def test_the_folder_may_be_called_validation(root: Path) -> None:
    (root / "val").rename(root / "validation")
    assert len(opened(root).test) == 3


def test_files_that_are_no_images_are_left_out(root: Path) -> None:
    for name in ("README.txt", ".hidden.JPEG"):
        (root / "train" / "n01" / name).write_text("no image")
    (root / "train" / "index.txt").write_text("no folder")
    (root / "train" / ".cache").mkdir()
    write_image(root / "train" / "n01" / "a.png", 60)
    write_image(root / "train" / "n01" / "b.jpg", 60)
    train = opened(root).train
    assert len(train) == 11
    assert [train.file_name(i) for i in range(2)] == ["a.png", "b.jpg"]


def test_an_index_beyond_the_last_image_is_an_index_error(root: Path) -> None:
    with pytest.raises(IndexError):
        opened(root).train[9]


def test_pictures_are_the_images_at_their_own_size(root: Path) -> None:
    picture, label = opened(root).train.picture(4)
    assert (picture.height, picture.width, int(label)) == (16, 24, 1)
    right = picture.part(Box(0, 14, 10, 10), 5)
    assert int((right.int() - 50).abs().max()) <= 4


def test_training_on_a_part_of_the_images(root: Path) -> None:
    dataset = opened(root, train_images=4)
    assert len(dataset.train) == 4 and len(dataset.test) == 3
    assert len({dataset.train.file_name(index) for index in range(4)}) == 4


def batches(items: TrainingStream, workers: int) -> Tensor:
    loader = DataLoader(items, 3, sampler=StreamSampler(2, len(items)), num_workers=workers)
    return torch.cat([images for images, _ in loader])


EVERYTHING = Augmentation(
    resized_crop=True, horizontal_flip=True, policy="randaugment", random_erasing=0.5
)


def test_workers_change_no_sample_and_none_depends_on_those_before_it(root: Path) -> None:
    items = TrainingStream(opened(root).train, 3, 9, 2, EVERYTHING)
    here = batches(items, workers=0)
    assert torch.equal(batches(items, workers=2), here)
    assert torch.equal(items[17][0], here[-1]) and torch.equal(items[2][0], here[0])
    assert len(here.unique(dim=0)) == len(here)


def test_every_training_image_is_as_a_test_sees_it_unless_it_is_cropped(root: Path) -> None:
    train = opened(root, test_crop=0.875).train
    items = TrainingStream(train, 3, 9, 1)
    seen = sorted(image.numpy().tobytes() for image, _ in (items[s] for s in range(9)))
    assert seen == sorted(train[index][0].numpy().tobytes() for index in range(9))


def test_crops_follow_the_bounding_boxes(root: Path) -> None:
    """The right half is boxed, and crops must cover all of it."""
    lines = [f"{name}_{n}.JPEG,0.5,0,1,1\n" for name in CLASSES for n in range(3)]
    (root / "boxes.csv").write_text("".join(lines))
    augmentation = Augmentation(
        resized_crop=True,
        crop_area=(0.5, 0.6),
        box_coverage=0.9,
        bounding_boxes=str(root / "boxes.csv"),
    )
    items = TrainingStream(opened(root).train, 0, 9, 10, augmentation)
    plain = TrainingStream(
        opened(root).train, 0, 9, 10, Augmentation(resized_crop=True, crop_area=(0.5, 0.6))
    )

    def right_half_shown(stream: TrainingStream) -> float:
        """Share of the bright pixels, whose level is above the middle of both levels."""
        shown = 0.0
        for sample in range(len(stream)):
            image = stream[sample][0].float()
            shown += float((image > image.amin() + 20).float().mean()) / len(stream)
        return shown

    assert right_half_shown(items) > 0.7 > 0.6 > right_half_shown(plain)


def test_bounding_boxes_need_image_files() -> None:
    dataset = open_dataset(Data(name="generated", image_size=8, num_images=8), 0)
    with pytest.raises(ConfigError) as error:
        TrainingStream(
            dataset.train, 0, 8, 1, Augmentation(resized_crop=True, bounding_boxes="boxes.csv")
        )
    assert str(error.value) == (
        "augmentation.bounding_boxes: goes by the names of image files, which this data.name has "
        "none of; leave it out"
    )


# ---- refusals


def test_the_path_is_needed() -> None:
    with pytest.raises(DatasetError) as error:
        open_dataset(Data(name="imagenet", image_size=8), 0)
    assert str(error.value) == (
        "data.path: is needed by data.name imagenet, which cannot be downloaded; name the folder "
        "that holds train and val"
    )


def test_a_missing_folder_is_named(root: Path) -> None:
    (root / "val").rename(root / "elsewhere")
    assert str(refusal(root)) == (
        f"data.path {root}: has no folder val or validation; name the folder that holds train and "
        "val, each with a folder for every class or with tar shards"
    )
    assert "has no folder train;" in str(refusal(root / "nowhere"))


def test_images_without_folders_of_classes_are_refused(root: Path) -> None:
    val = root / "val"
    val.rename(root / "old")
    val.mkdir()
    write_image(val / "ILSVRC2012_val_00000001.JPEG", 0)
    assert str(refusal(root)) == (
        f"{val}: has no folders; put the images of each class into a folder of its own"
    )


def test_an_empty_class_is_named(root: Path) -> None:
    (root / "train" / "n05").mkdir()
    assert str(refusal(root)) == (
        f"{root / 'train' / 'n05'}: has no images (.jpeg, .jpg, .png); fill the class's folder, or "
        "take it out"
    )


@pytest.mark.parametrize(("one", "other"), [("train", "val"), ("val", "train")])
def test_classes_that_one_folder_lacks_are_named(root: Path, one: str, other: str) -> None:
    write_class(root / one / "n05", 0)
    assert str(refusal(root)) == (
        f"{root / other}: lacks 1 of the classes that {root / one} has, the first is n05; both "
        "must have the same folders"
    )


def test_another_number_of_classes_than_configured_is_refused(root: Path) -> None:
    error = refusal(root, num_classes=1000)
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"data.num_classes: {root / 'train'} has 3 classes, got 1000; set data.num_classes: 3"
    )


def test_an_image_that_is_gone_is_named(root: Path) -> None:
    train, path = opened(root).train, root / "train" / "n01" / "n01_1.JPEG"
    path.unlink()
    with pytest.raises(DatasetError) as error:
        train[1]
    assert str(error.value) == (
        f"{path}: cannot be read, No such file or directory; replace the image, or take it out"
    )


def test_names_beyond_ascii_are_kept(root: Path) -> None:
    write_image(root / "train" / "n01" / "ä b.JPEG", 60)
    split = open_folders(root / "train", 8, 1.0)
    assert split.file_name(3) == "ä b.JPEG"
    assert split[3][1] == 0


# ---- other layouts


def test_imagenets_own_archive_is_read_with_its_flat_validation_folder(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    archive = tmp_path_factory.mktemp("archive")
    inside = archive / "ILSVRC" / "Data" / "CLS-LOC"
    inside.mkdir(parents=True)
    (root / "train").rename(inside / "train")
    (inside / "val").mkdir()
    for number, level in enumerate((120, 0, 60)):
        write_image(inside / "val" / f"ILSVRC2012_val_{number}.JPEG", level)
    lines = ["ImageId,PredictionString"]
    lines += [f"ILSVRC2012_val_{n},{c} 1 2 3 4 {c} 1 2 3 4 " for n, c in enumerate(CLASSES)]
    (archive / "LOC_val_solution.csv").write_text("\n".join(lines))
    dataset = opened(archive)
    assert len(dataset.train) == 9
    test = dataset.test
    assert [test.file_name(i) for i in range(3)] == [
        "ILSVRC2012_val_1.JPEG",
        "ILSVRC2012_val_0.JPEG",
        "ILSVRC2012_val_2.JPEG",
    ]  # n01, n02, n10
    assert [int(test[i][1]) for i in range(3)] == [0, 1, 2]
    (archive / "LOC_val_solution.csv").write_text("\n".join(lines[:-1]))
    assert str(refusal(archive)) == (
        f"{archive / 'LOC_val_solution.csv'}: {inside / 'val' / 'ILSVRC2012_val_2.JPEG'} is not "
        "in it; give the file that belongs to it"
    )
