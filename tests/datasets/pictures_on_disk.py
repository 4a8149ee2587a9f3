"""Small trees of image files and shards for tests, with every kind of bad file."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
from PIL import Image

CLASSES = ("n01", "n02", "n03")

SKIPPED_FILES = ("empty", "damaged", "foreign", "unreadable")
USED_FILES = ("cmyk", "greyscale", "converted", "misnamed", "rotated", "flawed")


def photograph(seed: int, height: int = 48, width: int = 64) -> Image.Image:
    """Smooth random patches, which JPEG keeps closely."""
    coarse = np.random.RandomState(seed).randint(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **({"quality": 90} if kind == "JPEG" else {}), **options)
    return file.getvalue()


def odd_file(kind: str, seed: int) -> bytes:
    """The content of a file of a kind; of "unreadable" there is none."""
    image = photograph(seed)
    whole = encoded(image)
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 6
        return encoded(image, exif=exif.tobytes())
    return {
        "empty": b"",
        "damaged": whole[: len(whole) // 2],
        "foreign": b"GIF89a no image",
        "cmyk": encoded(image.convert("CMYK")),
        "greyscale": encoded(image.convert("L")),
        "converted": encoded(image.convert("RGBA"), "PNG"),
        "misnamed": encoded(image, "PNG"),
        # its last restart marker is overwritten: the decoder warns, and goes on
        "flawed": _with_junk(whole),
    }[kind]


def _with_junk(whole: bytes) -> bytes:
    start = whole.index(b"\xff\xda") + 40
    return whole[:start] + b"\xff\xd3" + whole[start:]


def write_odd(folder: Path, kind: str, seed: int) -> Path:
    ending = "png" if kind == "converted" else "JPEG"
    path = folder / f"{folder.name}_{kind}.{ending}"
    if kind == "unreadable":
        path.symlink_to(folder / "nowhere")
    else:
        path.write_bytes(odd_file(kind, seed))
    return path


def write_tree(root: Path, train: int, val: int, odd: bool) -> List[Path]:
    """``train`` and ``val`` images in all, spread over the classes; with ``odd`` one file of every
    kind in each part takes the place of a plain one. Returns the odd files."""
    written = []
    for part, count in (("train", train), ("val", val)):
        kinds = (*SKIPPED_FILES, *USED_FILES) if odd else ()
        for number in range(count):
            folder = root / part / CLASSES[number % len(CLASSES)]
            folder.mkdir(parents=True, exist_ok=True)
            if number < len(kinds):
                written.append(write_odd(folder, kinds[number], number))
            else:
                name = f"{folder.name}_{number:04}.JPEG"
                (folder / name).write_bytes(encoded(photograph(number)))
    return written


def write_shards(root: Path, tree: Path, per_shard: int) -> None:
    """The readable files of a tree as ``PART/PART-000000.tar`` and so on, classes by number."""
    for part in ("train", "val"):
        (root / part).mkdir(parents=True)
        files = [path for path in sorted((tree / part).glob("*/*")) if path.exists()]
        for number, first in enumerate(range(0, len(files), per_shard)):
            with tarfile.open(root / part / f"{part}-{number:06}.tar", "w") as tar:
                for path in files[first : first + per_shard]:
                    label = CLASSES.index(path.parent.name)
                    add(tar, path.name, path.read_bytes())
                    if first:
                        add(tar, f"{path.stem}.cls", str(label).encode())
                    else:
                        add(tar, f"{path.stem}.json", json.dumps({"label": label}).encode())


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def kinds_by_name(notes: List[Tuple[str, str]]) -> Dict[str, List[str]]:
    """From (file, kind): kinds by the file's name."""
    found: Dict[str, List[str]] = {}
    for file, kind in notes:
        found.setdefault(Path(file).name, []).append(kind)
    return found
