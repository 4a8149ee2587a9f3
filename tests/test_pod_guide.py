"""docs/pod.md, the run scripts and PopRun's words: current, consistent, and refused in time."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Dict, List, Tuple

import pytest

from app.cli import _parser
from app.config import Run, load_run
from app.errors import ConfigError
from app.pod import IPUS_PER_PROCESS, Launch, main, poprun_words
from app.pod_guide import BEGIN, END, PAGE, Example, examples, render, stated, verdict_of

ROOT = Path(__file__).parents[1]
TEXT = PAGE.read_text(encoding="utf-8")
B0 = ROOT / "ipu_configs/imagenet/b0-g16-lnpn-half.yml"
EXAMPLES = examples()
ALONE = "fine_tuning.image_sizes=[]"


def b0(*overrides: str) -> Run:
    return load_run(B0, (ALONE, *overrides))


def options_of(words: List[str]) -> Dict[str, str]:
    assert words[0] == "poprun" and all(word.startswith("--") for word in words[1:])
    return dict(word[2:].split("=", 1) for word in words[1:])


# ---- the page


def test_the_page_is_what_the_system_files_come_to() -> None:
    assert BEGIN + TEXT.split(BEGIN)[1].split(END)[0] + END == render(stated(TEXT))


def test_every_system_with_a_file_is_on_the_page() -> None:
    files = {path.stem for path in (ROOT / "ipu_configs/systems").glob("*.yml")}
    assert {example.stem for example in EXAMPLES} == set(stated(TEXT)) == files


@pytest.mark.long
def test_what_the_page_says_is_simulated_is() -> None:
    (digits,) = (example for example in EXAMPLES if example.stem == "c600")
    assert stated(TEXT)["c600"] == verdict_of(digits)


def commands() -> List[List[str]]:
    block = TEXT.split(BEGIN)[1].split(END)[0]
    fences = re.findall(r"```\n(.*?)```", block, re.DOTALL)
    return [shlex.split(fence.replace("\\\n", " "), comments=True) for fence in fences]


@pytest.mark.parametrize(
    ("example", "words"),
    list(zip(EXAMPLES, commands())),
    ids=lambda each: getattr(each, "stem", ""),
)
def test_every_line_runs_the_example_on_all_its_ipus(example: Example, words: List[str]) -> None:
    start = words.index("python")
    options = _parser().parse_args(words[start + 3 :])
    assert load_run(ROOT / options.config, [*options.overrides, "data.path=null"]) == load_run(
        ROOT / example.config, [*example.changes, "data.path=null"]
    )
    run = example.run
    used = run.pipeline.stages * run.batching.replicas
    assert used == run.system.ipus
    written = load_run(ROOT / example.config)
    assert run.batching.global_batch == written.batching.global_batch
    if example.is_alone:
        assert start == 0
    else:
        assert words[0] == "export" and words[1].startswith("IPU_APP_MEET=")
        assert words[2:start] == poprun_words(run, example.launch)


# ---- PopRun's words


def test_the_words_follow_from_the_run() -> None:
    found = options_of(poprun_words(b0(), Launch(4)))
    assert found == {
        "num-instances": "4",
        "num-replicas": "8",
        "ipus-per-replica": "2",
        "numa-aware": "yes",
    }


def test_several_hosts_are_told_what_to_export_and_by_which_network() -> None:
    hosts = Launch(2, ("a", "b"), partition="p", network="10.1.0.0/16", cache="runs/my cache")
    found = options_of(poprun_words(b0(), hosts))
    assert (found["host"], found["vipu-partition"]) == ("a,b", "p")
    assert found["executable-cache-path"] == "runs/my cache"
    assert "-x IPU_APP_MEET" in found["mpi-local-args"]
    assert found["mpi-global-args"].count("10.1.0.0/16") == 2


@pytest.mark.parametrize(
    ("system", "replicas", "domains"),
    [("ipu-pod64", 32, None), ("ipu-pod128", 32, None), ("ipu-pod128", 64, "2"),
     ("bow-pod256", 128, "4")],
)  # fmt: skip
def test_link_domains_are_the_racks_that_the_run_takes(
    system: str, replicas: int, domains: object
) -> None:
    run = b0(f"system={system}", f"batching.replicas={replicas}")
    assert options_of(poprun_words(run, Launch(8))).get("num-ilds") == domains


@pytest.mark.parametrize(
    ("overrides", "launch", "said"),
    [
        ([ALONE], (3, ()), "--instances: must divide the run's 8 replicas, got 3"),
        ([ALONE], (3, ("a", "b")), "--instances: must be a multiple of the 2 hosts, got 3"),
        ([ALONE], (0, ()), "--instances: must be a multiple of the 1 hosts, got 0"),
        ([ALONE, "plan=auto"], (2, ()), "plan: auto does not say how many replicas"),
        ([], (2, ()), "fine_tuning: takes 16 replicas of 1 IPU where training takes 8 of 2"),
        (
            [ALONE, "system=ipu-pod128", "batching.replicas=64"],
            (1, ()),
            f"would take 128 IPUs, PopTorch lets it take {IPUS_PER_PROCESS}; give 2 instances",
        ),
    ],
)
def test_what_poprun_could_not_run_is_refused(
    overrides: List[str], launch: Tuple[int, Tuple[str, ...]], said: str
) -> None:
    instances, hosts = launch
    with pytest.raises(ConfigError) as refused:
        poprun_words(load_run(B0, overrides), Launch(instances, hosts))
    assert said in str(refused.value)


def test_the_program_prints_words_or_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    train = ["--", "--config", str(B0), "--set", ALONE, "--out", "x", "--compile-only"]
    assert main(["--instances", "2", *train]) == 0
    assert capsys.readouterr().out.split() == poprun_words(b0(), Launch(2))
    assert main(["--instances", "5", *train]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1


# ---- the scripts


def script(name: str, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    known = {k: v for k, v in os.environ.items() if k not in ("HOSTS", "NETWORK", "PARTITION")}
    return subprocess.run(
        [str(ROOT / "scripts" / name), *arguments],
        env={**known, "PYTHON": sys.executable, "DRY_RUN": "1", **variables},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
    )


TRAIN = ("--config", "ipu_configs/imagenet/b0-g16-lnpn-half.yml", "--set", ALONE)


def test_the_script_of_one_host_starts_poprun_with_the_arguments_as_given() -> None:
    odd = "data.path=/data/my $HOME images"
    done = script("train-one-host.sh", *TRAIN, "--set", odd, INSTANCES="4", CACHE="my cache")
    assert done.returncode == 0, done.stderr
    words = poprun_words(b0(), Launch(4, cache="my cache"))
    program = [sys.executable, "-m", "app", "train", "--backend", "ipu", *TRAIN, "--set", odd]
    assert done.stdout.splitlines() == ["IPU_APP_MEET=127.0.0.1:29400", *words, *program]


def test_the_script_of_several_hosts_meets_on_the_first() -> None:
    done = script("train-several-hosts.sh", *TRAIN, HOSTS="a,b", NETWORK="eth0", PORT="1234")
    assert done.returncode == 0, done.stderr
    words = poprun_words(b0(), Launch(4, ("a", "b"), network="eth0", cache="runs/cache"))
    assert done.stdout.splitlines()[: len(words) + 1] == ["IPU_APP_MEET=a:1234", *words]


@pytest.mark.parametrize(
    ("name", "variables", "code", "said"),
    [
        ("train-several-hosts.sh", {}, 1, "HOSTS: is not set"),
        ("train-one-host.sh", {"INSTANCES": "3"}, 2, "--instances: must divide"),
    ],
)
def test_scripts_end_with_the_sentence(
    name: str, variables: Dict[str, str], code: int, said: str
) -> None:
    done = script(name, *TRAIN, **variables)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
