"""The input pipeline's benchmark: its contestants are fair, and its figures are what it says."""

import io
import json
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import input_pipeline
from benchmarks.input_pipeline import FOLDERS, REFERENCE, SHARDS, needs, table


@pytest.fixture(scope="module")
def files() -> List[bytes]:
    return input_pipeline.pictures()


def test_the_pictures_are_photographs_of_imagenets_size(files: List[bytes]) -> None:
    images = [Image.open(io.BytesIO(content)) for content in files]
    assert {image.size for image in images} == {(500, 375), (375, 500)}
    assert len(set(files)) == len(files) == 8
    for image, content in zip(images, files):
        assert image.mode == "RGB" and 20_000 < len(content) < 100_000
        assert float(np.asarray(image).std()) > 20


def test_all_decoders_that_decode_the_whole_give_the_same_pixels(files: List[bytes]) -> None:
    found = input_pipeline.decoders()
    whole = {name: np.asarray(work(files[0])) for name, work in found.items() if "1/2" not in name}
    half = {name: np.asarray(work(files[0])) for name, work in found.items() if "1/2" in name}
    assert {"Pillow", "torchvision.io", "simplejpeg"} <= set(whole)
    expected = whole["Pillow"]
    assert np.array_equal(whole["simplejpeg"], expected)
    assert np.array_equal(whole["torchvision.io"].transpose(1, 2, 0), expected)
    assert np.array_equal(half["simplejpeg, 1/2"], half["Pillow, draft to 1/2"])


def test_all_pipelines_make_the_same_kind_of_sample(files: List[bytes], tmp_path: Path) -> None:
    folders, shards = input_pipeline.write_tree(tmp_path, files)
    found = input_pipeline.pipelines(folders, shards, 32)
    assert list(found) == [REFERENCE, FOLDERS, SHARDS]
    for make in found.values():
        image, label = make(3)
        assert (image.dtype, image.shape) == (torch.uint8, (3, 32, 32))
        assert int(label) in (0, 1)


def test_ratios_are_taken_within_rounds() -> None:
    """A machine that slows down for all in a round moves images/s, not ratios."""
    seconds = {"a": [2.0, 4.0, 8.0], "b": [1.0, 2.0, 4.0]}
    one, other = table(seconds, "a")
    assert one["ratio"] == [1, 1, 1] and other["ratio"] == [2, 2, 2]
    assert one["images_per_s"] == [0.125, 0.25, 0.5] and other["images_per_s"] == [0.25, 0.5, 1]


def test_cores_for_a_pod_are_rounded_up() -> None:
    found = needs(pod=1001.0, per_core=100.0, host=500.5)
    assert (found["cores"], found["host_share"]) == (11, 0.5)
    assert needs(1000.0, 100.0, 5000.0)["host_share"] == 1


@pytest.mark.parametrize(("factor", "code"), [(1.0, 0), (10.0, 4)])
def test_the_command_says_whether_the_target_is_reached(
    factor: float,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: "pytest.CaptureFixture[str]",
) -> None:
    def turns(contestants: Any, rounds: int, inputs: Any) -> Any:
        times = {name: [factor * 0.5] * rounds for name in contestants}
        for name in (REFERENCE, "Pillow"):
            if name in times:
                times[name] = [1.0] * rounds
        return times

    monkeypatch.setattr(input_pipeline, "in_turns", turns)
    monkeypatch.setattr(input_pipeline, "pod_images_per_s", lambda size: 1000.0 * size)
    monkeypatch.setattr(input_pipeline, "host_images_per_s", lambda *_: 100.0)
    monkeypatch.setattr("sys.argv", ["input_pipeline", "--rounds", "2"])
    threads = torch.get_num_threads()
    assert input_pipeline.main() == code
    said = capsys.readouterr().out
    assert f"target x 1.35: {'missed' if code else 'reached'}" in said
    assert "B0 at 224 px on an IPU-POD16 takes 224000 images/s (simulated)" in said
    monkeypatch.setattr("sys.argv", ["input_pipeline", "--rounds", "2", "--json", "--no-pod"])
    input_pipeline.main()
    found = json.loads(capsys.readouterr().out)
    assert found["reached"] == (not code) and found["pods"] == {}
    torch.set_num_threads(threads)


def test_a_short_run_measures_every_contestant(files: List[bytes]) -> None:
    work = {"a": lambda content: len(content), "b": lambda content: sum(content[:1000])}
    seconds = input_pipeline.in_turns(work, 3, lambda turn: files)
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert all(each > 0 for times in seconds.values() for each in times)


def test_the_loader_is_timed_on_whole_batches(files: List[bytes], tmp_path: Path) -> None:
    folders, _ = input_pipeline.write_tree(tmp_path, files)
    assert input_pipeline.host_images_per_s(folders, 16, workers=1, images=128) > 0
