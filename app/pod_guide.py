"""The command lines of docs/pod.md: one run on every system that has a file.

    python -m app.pod_guide --write

works them out from the system files and puts them into the page, with what the IPU Model says of
each. The run is the paper's B0 at half resolution; its global batch stays, so its hyper-parameters
do, and replicas, accumulation and micro-batch follow from the system.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Dict, Final, List, Mapping, NamedTuple, Sequence, Tuple

from app import backend
from app.config import Run, System, load_run
from app.config.loader import CONFIG_ROOT, load_system
from app.errors import MisfitError
from app.pod import MEETING_PORT, Launch, poprun_words

__all__ = ["Example", "examples", "main", "render", "stated"]

PAGE: Final = CONFIG_ROOT.parent / "docs" / "pod.md"
BEGIN, END = "<!-- systems -->", "<!-- /systems -->"
CONFIG: Final = "ipu_configs/imagenet/b0-g16-lnpn-half.yml"

SMALL_CONFIG: Final = "ipu_configs/digits.yml"
"""For cards, on which the paper's run does not fit."""

_GENERATIONS: Final = ("mk1", "mk2", "bow")
_MACHINE_IPUS: Final = 4
_STAGES: Final = 2
_LARGEST_MICRO_BATCH: Final = 24
"""The paper's, and what fits."""
_HOST_IPUS: Final = 16
"""A host server for so many IPUs: four for the 64 of a rack, as many as racks have at most."""
_INSTANCES_PER_HOST: Final = 2
"""One for each NUMA node of a host with two sockets."""


class Example(NamedTuple):
    """The run on one system."""

    stem: str
    """Name of the system's file."""
    config: str
    """The run's file."""
    run: Run
    changes: Tuple[str, ...]
    """What ``--set`` changes in the run's file."""
    launch: Launch

    @property
    def is_alone(self) -> bool:
        """Whether one process runs it, without PopRun."""
        return self.launch.instances == 1


def examples() -> List[Example]:
    """The run on every system, the small ones first, by generation."""
    folder = CONFIG_ROOT / "systems"
    systems = [(path.stem, load_system(path)) for path in folder.glob("*.yml")]
    systems.sort(key=lambda each: (_GENERATIONS.index(each[1].chip.name), each[1].ipus))
    return [_example(stem, system) for stem, system in systems]


def _example(stem: str, system: System) -> Example:
    if system.ipus < _MACHINE_IPUS:
        changes = [f"system={stem}"]
        if system.ipus == 1:
            changes.append("pipeline.splits=[]")
        if system.chip.name == "mk1":  # less than half of Mk2's memory
            changes += ["batching.micro_batch=4", "batching.gradient_accumulation=24"]
        return Example(
            stem, SMALL_CONFIG, _loaded(SMALL_CONFIG, changes), tuple(changes), Launch(1)
        )
    replicas = system.ipus // _STAGES
    share = _loaded(CONFIG, ()).batching.global_batch // replicas
    micro_batch = max(
        size
        for size in range(1, _LARGEST_MICRO_BATCH + 1)
        if share % size == 0 and share // size >= 2 * _STAGES - 1
    )
    changes = [
        f"system={stem}",
        f"batching.replicas={replicas}",
        f"batching.micro_batch={micro_batch}",
        f"batching.gradient_accumulation={share // micro_batch}",
        "fine_tuning.image_sizes=[]",  # which has other replicas
    ]
    launch = _launch(system.ipus, replicas)
    return Example(stem, CONFIG, _loaded(CONFIG, changes), tuple(changes), launch)


def _loaded(config: str, changes: Sequence[str]) -> Run:
    return load_run(CONFIG_ROOT.parent / config, changes)


def _launch(ipus: int, replicas: int) -> Launch:
    hosts = max(1, ipus // _HOST_IPUS)
    names = tuple(f"host{index}" for index in range(hosts)) if hosts > 1 else ()
    instances = min(hosts * _INSTANCES_PER_HOST, replicas)
    return Launch(
        instances,
        names,
        partition="PARTITION" if instances > 1 else None,
        network="NETWORK" if hosts > 1 else None,
        cache="runs/cache" if instances > 1 else None,
    )


def render(verdicts: Mapping[str, str]) -> str:
    """The block of the page; ``verdicts`` say of each system, by stem, what is simulated."""
    shown = examples()
    lines = [
        BEGIN,
        "| system | IPUs | stages × replicas, micro-batch × accumulation | hosts, instances | "
        "simulated |",
        "|---|---|---|---|---|",
    ]
    for each in shown:
        batching = each.run.batching
        lines.append(
            f"| `{each.stem}` | {each.run.system.ipus} | {each.run.pipeline.stages} × "
            f"{batching.replicas}, {batching.micro_batch} × {batching.gradient_accumulation} | "
            f"{max(1, len(each.launch.hosts))}, {each.launch.instances} | {verdicts[each.stem]} |"
        )
    for each in shown:
        lines += ["", f"{each.run.system.name}:", "", "```", *_command(each), "```"]
    return "\n".join([*lines, END])


def _command(example: Example) -> List[str]:
    """The lines to type, each but the last ending in a backslash."""
    train = [f"python -m app train --config {example.config}"]
    settings = [f"--set {_quoted(change)}" for change in example.changes]
    if example.is_alone:
        return [" ".join([*train, *settings, "--backend ipu"])]
    train += [settings[0], " ".join(settings[1:4]), " ".join(settings[4:])]
    train.append("--set data.path=/data/imagenet --backend ipu")
    meeting = f"{example.launch.hosts[0] if example.launch.hosts else '127.0.0.1'}:{MEETING_PORT}"
    words = [_quoted(word) for word in poprun_words(example.run, example.launch)]
    head = [word for word in words if not word.startswith(("'", "--host="))]
    hosts = [word for word in words if word.startswith("--host=")]
    rest = [word for word in words if word.startswith("'")]
    lines = [head[0], *hosts, " ".join(head[1:4]), " ".join(head[4:]), *rest, *train]
    return [f"export IPU_APP_MEET={meeting}", *_continued(lines)]


def _continued(lines: Sequence[str]) -> List[str]:
    indented = [line if index == 0 else f"  {line}" for index, line in enumerate(lines)]
    return [f"{line} \\" for line in indented[:-1]] + indented[-1:]


def _quoted(word: str) -> str:
    return word if re.fullmatch(r"[\w=.,/:-]+", word) else f"'{word}'"


def stated(page: str) -> Dict[str, str]:
    """What a page says is simulated, by system."""
    rows = re.findall(r"^\| `([\w-]+)` \|.*\| ([^|]*) \|$", page, re.MULTILINE)
    return dict(rows)


def verdict_of(example: Example) -> str:
    """What the IPU Model says of the run on a system.

    Raises:
        MisfitError: it does not fit, so that the page would be wrong.
    """
    backend.choose("ipu-model")
    from app.ipu_model.report.units import count, percent
    from app.simulate import simulate_run

    found = simulate_run(example.run)
    if not found.fits:
        raise MisfitError(f"{example.stem}: {example.config} does not fit; lower its micro-batch")
    margin = 1 - found.peak_tile_bytes / found.tile_memory_bytes
    return (
        f"{count(found.throughput_samples_per_s)} images/s, {percent(margin)} of the fullest tile "
        "free"
    )


def main(arguments: Sequence[str]) -> int:
    """Work the block out and print it, or put it into the page."""
    parser = argparse.ArgumentParser(prog="python -m app.pod_guide", description="docs/pod.md")
    parser.add_argument("--write", action="store_true", help="put it into docs/pod.md")
    options = parser.parse_args(arguments)
    block = render({each.stem: verdict_of(each) for each in examples()})
    if options.write:
        replace_block(PAGE, block)
    else:
        print(block)
    return 0


def replace_block(page: Path, block: str) -> None:
    """Put a block in the place of the page's."""
    text = page.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    page.write_text(before + block + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
