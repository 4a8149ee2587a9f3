"""Images per second and core of the input pipeline, and how many cores an IPU-POD16 needs.

    python -m benchmarks.input_pipeline [--rounds 15] [--json] [--no-pod]
    python -m benchmarks.input_pipeline --write      # and put the tables into docs/data.md

Pictures are JPEG files of ImageNet's usual size, 500 x 375 at quality 90, cut from scikit-learn's
two photographs. Contestants take turns in every round, in one process with one thread. *Measured*
is processor time, so that images/s are those of one core although the machine is shared; medians
over rounds with quartiles, and ratios are taken within each round. Two tables:

- decoders: the whole image, and at half its sides where that is offered. PyTurboJPEG takes part
  where it is installed with libjpeg-turbo's library, which it does not bring.
- pipelines: a file to a training image as tensor. "torchvision on Pillow" is ImageFolder with
  RandomResizedCrop, RandomHorizontalFlip and PILToTensor; ours is the training stream over class
  folders and over shards with the same crops and flips.

The command exits with 4 when ours is below 1.35 times the reference at 224 px or 160 px. Then the
loader of PopTorch with a worker for each core is timed on this host, and the images/s that B0 takes
in training on an IPU-POD16, *simulated*, are divided by ours per core.
"""

import argparse
import io
import json
import math
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
import torch
from PIL import Image

from app.config import load_run
from app.config.loader import CONFIG_ROOT
from app.config.schema import Augmentation, Data
from app.sdk import poptorch
from benchmarks.record import replaced
from datasets import StreamSampler, TrainingStream, open_dataset

TARGET = 1.35
"""Least ratio of our images/s to those of torchvision on Pillow."""
SIZES = (224, 160)
QUALITY, LONG, SHORT = 90, 500, 375
REFERENCE, FOLDERS, SHARDS = "torchvision on Pillow", "ours, class folders", "ours, tar shards"
CROPS = Augmentation(resized_crop=True, crop_area=(0.08, 1.0), horizontal_flip=True)
PODS = {160: "imagenet/b0-g16-lnpn-half.yml", 224: "imagenet/b0-g16-lnpn-native.yml"}
"""Runs of B0 on an IPU-POD16 by the size of their images."""
_PAGE = Path(__file__).parents[1] / "docs" / "data.md"
_PICTURES, _COPIES = 8, 4  # in the tree, and of each

Seconds = Dict[str, List[float]]
"""Processor time per image of each contestant, one figure for each round."""


def pictures() -> List[bytes]:
    """JPEG files: eight cuts from two photographs, upright and across."""
    # Imported here: it takes a second.
    from sklearn.datasets import load_sample_images

    files = []
    for pixels in load_sample_images().images:
        photograph = Image.fromarray(pixels)
        width, height = photograph.size
        across, upright = height * LONG / SHORT, height * SHORT / LONG
        for share in (0.0, 1.0):
            for wide, size in ((across, (LONG, SHORT)), (upright, (SHORT, LONG))):
                left = share * (width - wide)
                cut = photograph.resize(
                    size, Image.Resampling.LANCZOS, (left, 0, left + wide, height)
                )
                file = io.BytesIO()
                cut.save(file, "JPEG", quality=QUALITY)
                files.append(file.getvalue())
    return files


def decoders() -> Dict[str, Callable[[bytes], Any]]:
    """What turns a file into RGB pixels, by name."""
    from torchvision import io as torchvision_io

    def torchvision(content: bytes) -> Any:
        data = torch.from_numpy(np.frombuffer(content, np.uint8).copy())
        return torchvision_io.decode_jpeg(data, torchvision_io.ImageReadMode.RGB)

    def pillow(content: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def pillow_draft(content: bytes) -> Any:
        image = Image.open(io.BytesIO(content))
        image.draft("RGB", (image.width // 2, image.height // 2))
        return np.asarray(image)

    def simplejpeg_half(content: bytes) -> Any:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        return simplejpeg.decode_jpeg(
            content, min_height=height // 2, min_width=width // 2, min_factor=2
        )

    found: Dict[str, Callable[[bytes], Any]] = {
        "Pillow": pillow,
        "torchvision.io": torchvision,
        "simplejpeg": simplejpeg.decode_jpeg,
        "Pillow, draft to 1/2": pillow_draft,
        "simplejpeg, 1/2": simplejpeg_half,
    }
    try:
        from turbojpeg import TurboJPEG  # type: ignore[import-not-found]

        turbo = TurboJPEG()
    except (ImportError, RuntimeError, OSError):
        return found
    rgb = 0  # TJPF_RGB
    found["PyTurboJPEG"] = lambda content: turbo.decode(content, pixel_format=rgb)
    found["PyTurboJPEG, 1/2"] = lambda content: turbo.decode(
        content, pixel_format=rgb, scaling_factor=(1, 2)
    )
    return found


def write_tree(root: Path, files: Sequence[bytes]) -> Tuple[Path, Path]:
    """The pictures as class folders and as shards."""
    folders, shards = root / "folders", root / "shards"
    for part in ("train", "val"):
        (shards / part).mkdir(parents=True)
        with tarfile.open(shards / part / f"{part}-000000.tar", "w") as tar:
            for number, content in enumerate(list(files) * _COPIES):
                label = number % 2
                path = folders / part / f"n{label}" / f"{number}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
                for ending, data in (("jpg", content), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folders, shards


def data_of(path: Path, size: int) -> Data:
    """The configuration of a tree that `write_tree` wrote."""
    return Data(name="imagenet", path=str(path), image_size=size, num_classes=2)


def pipelines(folders: Path, shards: Path, size: int) -> Dict[str, Callable[[int], Any]]:
    """What makes training images of ``size`` pixels by number, by name."""
    from torchvision import datasets, transforms

    reference = datasets.ImageFolder(
        str(folders / "train"),
        transforms.Compose(
            [
                transforms.RandomResizedCrop(size),
                transforms.RandomHorizontalFlip(),
                transforms.PILToTensor(),
            ]
        ),
    )
    found: Dict[str, Callable[[int], Any]] = {REFERENCE: lambda n: reference[n % len(reference)]}
    for name, path in ((FOLDERS, folders), (SHARDS, shards)):
        split = open_dataset(data_of(path, size), 0).train
        found[name] = TrainingStream(split, 0, len(split), 10**6, CROPS).__getitem__
    return found


def in_turns(
    contestants: Mapping[str, Callable[[Any], Any]], rounds: int, inputs: Callable[[int], List[Any]]
) -> Seconds:
    """Time ``rounds`` rounds on ``inputs(round)``, after one that is not counted."""
    seconds: Seconds = defaultdict(list)
    for turn in range(rounds + 1):
        given = inputs(turn)
        for name, work in contestants.items():
            started = time.process_time()
            for each in given:
                work(each)
            if turn:
                seconds[name].append((time.process_time() - started) / len(given))
    return seconds


def table(seconds: Seconds, reference: str) -> List[Dict[str, Any]]:
    """Images/s per core of each contestant and its ratio to the reference, each as quartiles."""
    rows = []
    for name, times in seconds.items():
        ratios = [other / own for other, own in zip(seconds[reference], times)]
        rows.append(
            {
                "name": name,
                "images_per_s": quartiles([1 / each for each in times]),
                "ratio": quartiles(ratios),
            }
        )
    return rows


def quartiles(values: List[float]) -> List[float]:
    """Lower quartile, median, upper quartile."""
    return statistics.quantiles(values, n=4) if len(values) > 1 else values * 3


def host_images_per_s(folders: Path, size: int, workers: int, images: int) -> float:
    """Wall-clock images/s of PopTorch's loader, ahead of nobody who computes."""
    split = open_dataset(data_of(folders, size), 0).train
    stream = TrainingStream(split, 0, len(split), 10**6, CROPS)
    batch, warm_up = 64, 2
    loader = poptorch.DataLoader(
        poptorch.Options(),
        stream,
        batch,
        sampler=StreamSampler(0, (images // batch + warm_up) * batch),
        num_workers=workers,
        mode=poptorch.DataLoaderMode.AsyncRebatched,
        async_options={"load_indefinitely": False},
        rebatched_worker_size=16,
    )
    try:
        batches = iter(loader)
        for _ in range(warm_up):
            next(batches)
        started = time.perf_counter()
        count = sum(len(labels) for _, labels in batches)
        return count / (time.perf_counter() - started)
    finally:
        loader.terminate()


def pod_images_per_s(size: int) -> float:
    """What B0's training on an IPU-POD16 takes, simulated."""
    # Imported here: it takes seconds.
    from app.simulate import simulate_run

    return float(simulate_run(load_run(CONFIG_ROOT / PODS[size])).throughput_samples_per_s)


def measure(rounds: int, pod: bool) -> Dict[str, Any]:
    """All figures."""
    files = pictures()
    found: Dict[str, Any] = {
        "torch": torch.__version__,
        "target": TARGET,
        "decoders": table(in_turns(decoders(), rounds, lambda turn: files), "Pillow"),
        "pipelines": {},
        "pods": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        folders, shards = write_tree(Path(folder), files)
        for size in SIZES:
            rows = table(in_turns(pipelines(folders, shards, size), rounds, _numbers), REFERENCE)
            found["pipelines"][str(size)] = rows
            if pod:
                own = next(row for row in rows if row["name"] == FOLDERS)["images_per_s"][1]
                found["pods"][str(size)] = needs(
                    pod_images_per_s(size), own, host_images_per_s(folders, size, _cores(), 1024)
                )
    found["reached"] = all(
        row["ratio"][1] >= TARGET
        for rows in found["pipelines"].values()
        for row in rows
        if row["name"] != REFERENCE
    )
    return found


def _numbers(turn: int) -> List[Any]:
    """Those of an epoch of the tree."""
    count = _PICTURES * _COPIES
    return list(range(turn * count, (turn + 1) * count))


def needs(pod: float, per_core: float, host: float) -> Dict[str, float]:
    """The cores that feed a POD of ``pod`` images/s, and what this host delivers."""
    return {
        "pod_images_per_s": pod,
        "cores": math.ceil(pod / per_core),
        "host_cores": _cores(),
        "host_images_per_s": host,
        "host_share": min(1.0, host / pod),
    }


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _print(found: Mapping[str, Any]) -> None:
    print(f"torch {found['torch']}; images/s of one core, measured; median (quartiles)")
    sections = {"decoders, against Pillow": found["decoders"]}
    for size, rows in found["pipelines"].items():
        sections[f"to {size} px, against torchvision on Pillow"] = rows
    for title, rows in sections.items():
        print(f"\n{title}")
        for row in rows:
            low, middle, high = row["images_per_s"]
            least, ratio, most = row["ratio"]
            print(
                f"  {row['name']:22} {middle:6.0f}  ({low:.0f} to {high:.0f})   "
                f"x {ratio:.2f}  ({least:.2f} to {most:.2f})"
            )
    print(f"\ntarget x {found['target']}: {'reached' if found['reached'] else 'missed'}")
    for size, pod in found["pods"].items():
        print(
            f"B0 at {size} px on an IPU-POD16 takes {pod['pod_images_per_s']:.0f} images/s "
            f"(simulated): {pod['cores']} such cores; this host's {pod['host_cores']} deliver "
            f"{pod['host_images_per_s']:.0f} images/s (measured), {pod['host_share']:.1%} of it"
        )


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of docs/data.md."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("simplejpeg", "Pillow"))
    lines = [
        f"torch {found['torch']}, {packages}; images/s of one core and ratio, medians with "
        "quartiles, *measured*:",
        "",
    ]
    sections = {"decoder, whole image": ("× Pillow", found["decoders"])}
    for size, rows in found["pipelines"].items():
        sections[f"file to training image of {size} px"] = ("× torchvision on Pillow", rows)
    for title, (against, rows) in sections.items():
        lines += [f"| {title} | images/s | {against} |", "|---|---|---|"]
        for row in rows:
            least, ratio, most = row["ratio"]
            middle = row["images_per_s"][1]
            spread = f"{ratio:.2f} ({least:.2f}–{most:.2f})"
            lines.append(f"| {row['name']} | {middle:.0f} | {spread} |")
        lines.append("")
    for size, pod in found["pods"].items():
        lines.append(
            f"B0 (G16, LN+PN) in training at {size} px on an IPU-POD16 takes "
            f"{pod['pod_images_per_s']:,.0f} images/s (*simulated*): {pod['cores']} such cores. "
            f"The {pod['host_cores']} of this host deliver {pod['host_images_per_s']:,.0f} "
            "(*measured*)."
        )
    return "\n".join(lines).rstrip()


def _at_least_one(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def main() -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=_at_least_one, default=15, metavar="N")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--no-pod", action="store_true", help="leave out the loader and the POD")
    parser.add_argument("--write", action="store_true", help="update docs/data.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(arguments.rounds, not arguments.no_pod)
    if arguments.json:
        print(json.dumps(found))
    else:
        _print(found)
    if arguments.write:
        page = replaced(_PAGE.read_text(encoding="utf-8"), "input", markdown(found))
        _PAGE.write_text(page, encoding="utf-8")
    return 0 if found["reached"] else 4


if __name__ == "__main__":
    sys.exit(main())
