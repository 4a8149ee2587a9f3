"""ImageNet in folders of classes or in WebDataset's shards.

ImageNet-1k (arXiv 1409.0575) has 1,281,167 images for training and 50,000 labelled ones beside
them; any other images laid out like this are read as well. ``docs/data.md`` shows the layouts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import List, Sequence, Tuple, Union

from app.config.schema import Data
from app.errors import ConfigError, DatasetError
from datasets.class_folders import SOLUTION, FolderSplit, open_flat, open_folders
from datasets.fetch import setting
from datasets.shards import ShardSplit, open_shards
from datasets.split import ImageDataset

CHANNELS = 3
TRAIN_NAMES = ("train", "training")
HELD_OUT_NAMES = ("val", "validation", "valid")

_ORIGINAL = Path("ILSVRC", "Data", "CLS-LOC")  # where ImageNet's own archive has both folders


@dataclass(frozen=True)
class FolderLayout:
    """Where the folders of both parts are."""

    train: Path
    held_out: Path
    solution: Path
    """Classes of the held-out images, where these lie in one folder."""


@dataclass(frozen=True)
class ShardLayout:
    """The shards of both parts, in order."""

    train: Tuple[Path, ...]
    held_out: Tuple[Path, ...]


Layout = Union[FolderLayout, ShardLayout]


def open_imagenet(data: Data) -> ImageDataset:
    """All of ``train`` to learn from; ``val`` both to choose by and to report, as is usual with
    ImageNet, whose test labels are not public.

    Classes are numbered in the order of their folders' names, or as the shards say. Raises
    ``DatasetError`` when a part is missing or has no images, or the two have other classes,
    ``ConfigError`` when the classes are not ``data.num_classes``.
    """
    if data.path is None:
        raise DatasetError(
            "data.path: is needed by data.name imagenet, which cannot be downloaded; name the "
            "folder that holds train and val"
        )
    layout = find_layout(Path(data.path).expanduser(), setting(data))
    train, held_out = open_layout(layout, data.image_size, data.test_crop)
    found = number_of_classes(train, held_out)
    if found != data.num_classes and (isinstance(train, FolderSplit) or found > data.num_classes):
        raise ConfigError(
            f"data.num_classes: {train.folder} has {found} classes, got {data.num_classes}; set "
            f"data.num_classes: {found}"
        )
    return ImageDataset(data.name, data.num_classes, CHANNELS, train, held_out, held_out)


def find_layout(root: Path, where: str) -> Layout:
    """How the images lie in a folder.

    ``where`` begins the one sentence of the ``DatasetError`` when it is in no way that is known.
    """
    for base in (root, root / _ORIGINAL):
        layout = _shards(base) or _folders(base, root)
        if layout is not None:
            return layout
    missing = "train" if not _part(root, TRAIN_NAMES) else "val or validation"
    raise DatasetError(
        f"{where}: has no folder {missing}; name the folder that holds train and val, each with a "
        "folder for every class or with tar shards"
    )


def open_layout(
    layout: Layout, image_size: int, test_crop: float
) -> Union[Tuple[FolderSplit, FolderSplit], Tuple[ShardSplit, ShardSplit]]:
    """Both parts. Raises ``DatasetError`` when one has no images, or folders have other classes."""
    if isinstance(layout, ShardLayout):
        return (
            open_shards(layout.train, "train", image_size, test_crop),
            open_shards(layout.held_out, "val", image_size, test_crop),
        )
    train = open_folders(layout.train, image_size, test_crop)
    if layout.solution.is_file() and not _has_folders(layout.held_out):
        held_out = open_flat(layout.held_out, layout.solution, train.classes, image_size, test_crop)
    else:
        held_out = open_folders(layout.held_out, image_size, test_crop)
        _compare(train, held_out)
    return train, held_out


def number_of_classes(
    train: Union[FolderSplit, ShardSplit], held_out: Union[FolderSplit, ShardSplit]
) -> int:
    """Folders, or one more than the largest label of a shard."""
    if isinstance(train, FolderSplit):
        return len(train.classes)
    return max(int(split.labels.max()) for split in (train, held_out)) + 1


def _folders(base: Path, root: Path) -> Union[FolderLayout, None]:
    train, held_out = _part(base, TRAIN_NAMES), _part(base, HELD_OUT_NAMES)
    if not (train and held_out):
        return None
    return FolderLayout(train[0], held_out[0], root / SOLUTION)


def _shards(base: Path) -> Union[ShardLayout, None]:
    train, held_out = _shards_of(base, TRAIN_NAMES), _shards_of(base, HELD_OUT_NAMES)
    return ShardLayout(tuple(train), tuple(held_out)) if train and held_out else None


def _shards_of(base: Path, names: Sequence[str]) -> List[Path]:
    """Of a part: in a folder of its name, or beside the other part with the name in theirs."""
    for folder in _part(base, names):
        return sorted(folder.glob("*.tar"))
    return sorted(
        path
        for path in base.glob("*.tar")
        if any(name in path.stem.replace("_", "-").split("-") for name in names)
    )


def _part(base: Path, names: Sequence[str]) -> List[Path]:
    return [base / name for name in names if (base / name).is_dir()][:1]


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() and not entry.name.startswith(".") for entry in folder.iterdir())


def _compare(train: FolderSplit, held_out: FolderSplit) -> None:
    for one, other in ((train, held_out), (held_out, train)):
        missing = sorted(set(one.classes) - set(other.classes))
        if missing:
            raise DatasetError(
                f"{other.folder}: lacks {len(missing)} of the classes that {one.folder} has, the "
                f"first is {missing[0]}; both must have the same folders"
            )
