"""System descriptions: what is shipped, and what a description may not say."""

import csv
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Iterator, Set

import pytest

from app.config import System, find_system
from app.config.loader import dump, load_system, load_text
from app.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "ipu_configs" / "systems").glob("*.yml"))
SIZES = {
    "C2": 2,
    "C600": 1,
    "IPU-M2000": 4,
    "IPU-POD16": 16,
    "IPU-POD64": 64,
    "IPU-POD128": 128,
    "IPU-POD256": 256,
    "Bow-2000": 4,
    "Bow Pod16": 16,
    "Bow Pod64": 64,
    "Bow Pod128": 128,
    "Bow Pod256": 256,
}


def published(column: str) -> Set[str]:
    rows = (ROOT / "benchmarks" / "published" / "throughput.csv").read_text(encoding="utf-8")
    return {row[column] for row in csv.DictReader(rows.splitlines())}


def sections(value: object) -> Iterator[object]:
    if is_dataclass(value):
        yield value
        for field in fields(value):
            yield from sections(getattr(value, field.name))


def test_the_shipped_systems() -> None:
    assert {load_system(path).name: load_system(path).ipus for path in FILES} == SIZES


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_a_system_is_found_by_its_file_and_by_its_name(path: Path) -> None:
    system = load_system(path)
    names = (path.stem, system.name, system.name.lower(), system.name.upper())
    assert [find_system(name) for name in names] == [system] * 4


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.stem))
def test_every_shipped_figure_has_a_source(path: Path) -> None:
    system = load_system(path)
    assert system.links and system.chip.memory and system.chip.conv_units and system.chip.rates
    sourced = [section for section in sections(system) if hasattr(section, "source")]
    assert len(sourced) >= 7
    assert all(section.source and section.confidence for section in sourced)  # type: ignore


def test_every_published_system_is_known() -> None:
    assert {find_system(name).name for name in published("system")} == published("system")


def test_an_unknown_system_is_refused_with_the_closest() -> None:
    message = r"systems: holds no system 'Bow Pod 6'; did you mean 'bow-pod64'\?$"
    with pytest.raises(ConfigError, match=message):
        find_system("Bow Pod 6")


@pytest.mark.parametrize(
    ("pod", "machine"), [("ipu-pod256", "ipu-m2000"), ("bow-pod16", "bow-2000")]
)
def test_pods_are_made_of_machines(pod: str, machine: str) -> None:
    assert find_system(pod).chip == find_system(machine).chip
    assert find_system(pod).links == find_system(machine).links


DESK = """\
name: Desk
ipus: 2
chip:
  name: mk1
  tiles: 1216
  tile_memory_bytes: 262144
  clock_hz: 1.6e9
  source: a test
"""
RUN = """\
name: small
model: {name: efficientnet_b0}
data: {name: digits, image_size: 8}
batching: {micro_batch: 4}
training: {epochs: 1}
"""
LINKS = """\
links:
  ipu:
    bytes_per_s: 16e9
    links_in_pair: 4
    links_between_pairs: 2
    links_between_machines: 2
    machine_ipus: 1
    rack_ipus: 1
    source: a test
  host: {bytes_per_s: 16e9, ipus: 2, source: a test}
  sync: {hop_s: 15e-9, source: a test}
"""
MEMORY = "  memory: {region0_bytes: 262145, element_bytes: 16384, source: a test}\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "desk.yml"
    path.write_text(text, encoding="utf-8")
    return path


def test_links_and_details_may_be_left_out(tmp_path: Path) -> None:
    system = load_system(written(tmp_path, DESK))
    assert isinstance(system, System)
    assert (system.links, system.chip.memory, system.chip.confidence) == (None, None, "documented")


def test_what_a_system_leaves_out_stays_out_of_a_dump() -> None:
    inline = "".join(f"  {line}\n" for line in DESK.splitlines())
    run = load_text(f"{RUN}system:\n{inline}", "run.yml")
    assert run.system.links is None
    assert load_text(dump(run), "dump") == run


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DESK.replace("ipus: 2", "ipus: 3"), "2: 'ipus' must be a power of two, got 3"),
        (DESK.replace("1216", "0"), "5: 'chip.tiles' must be positive, got 0"),
        (
            DESK + MEMORY,
            "9: 'chip.memory.region0_bytes' must be at most the tile's 262144 bytes, got 262145",
        ),
        (
            DESK + LINKS,
            "9: 'links.gateway' is needed: links join 1 IPUs, Desk has 2; "
            "describe the gateway or raise links.ipu.rack_ipus",
        ),
        (
            DESK + LINKS.replace("ipus: 2,", "ipus: 0,"),
            "18: 'links.host.ipus' must be positive, got 0",
        ),
        (
            DESK + LINKS.replace("{hop_s: 15e-9,", "{hop: 15e-9,"),
            "19: unknown key 'links.sync.hop'; did you mean 'links.sync.hop_s'?",
        ),
        (
            DESK + "  confidence: certain\n",
            "9: 'chip.confidence' cannot be 'certain' (str); "
            "use one of documented, third-party, assumption",
        ),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as refused:
        load_system(path)
    assert str(refused.value) == f"{path}:{message}"
