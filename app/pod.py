"""PopRun's command line for a run: how many instances, on which hosts, with which IPUs.

    python -m app.pod --instances 2 --partition NAME -- --config FILE --set key=value

prints the words, one a line, for a script to put before ``python -m app train``; what stands after
``--`` is what ``train`` is given. Sources: Graphcore, *PopDist and PopRun user guide*, "PopRun
features"; graphcore/poptorch, popart_compiler/source (IPUs of a process).
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, List, Optional, Sequence, Tuple

from app.config import Run, load_run
from app.errors import AppError, ConfigError

__all__ = ["Launch", "main", "poprun_words"]

IPUS_PER_PROCESS: Final = 64
"""What PopTorch lets one process take."""
RACK_IPUS: Final = 64
"""IPUs that links reach in a system whose file does not say."""
MEETING_PORT: Final = 29400
"""Where the first host listens for the instances to meet; any free port would do."""
_EXPORTED: Final = (
    "LD_LIBRARY_PATH",
    "OPAL_PREFIX",
    "PATH",
    "PYTHONPATH",
    "CPATH",
    "POPLAR_SDK_ENABLED",
    "IPU_APP_MEET",
)
"""Variables that instances on other hosts need; PopRun's own it passes by itself."""


@dataclass(frozen=True)
class Launch:
    """Where a run is launched.

    Raises:
        ConfigError: instances that the hosts cannot share evenly.
    """

    instances: int
    """Processes on all hosts together."""
    hosts: Tuple[str, ...] = ()
    """Host servers by name or address, this one first; none: this one alone."""
    partition: Optional[str] = None
    """V-IPU partition; None: what PopRun finds."""
    network: Optional[str] = None
    """Network or interface between hosts that MPI takes, such as 10.1.0.0/16; None: any."""
    cache: Optional[str] = None
    """Folder of compiled programs that all instances see; None: none."""

    def __post_init__(self) -> None:
        if self.instances < 1 or self.instances % max(1, len(self.hosts)):
            raise ConfigError(
                f"--instances: must be a multiple of the {max(1, len(self.hosts))} hosts, got "
                f"{self.instances}; give each host as many"
            )


def poprun_words(run: Run, launch: Launch) -> List[str]:
    """PopRun and its options, to stand before the program.

    Raises:
        ConfigError: replicas that the instances cannot share, or IPUs that a process cannot take.
    """
    if run.plan == "auto":
        raise ConfigError(
            "plan: auto does not say how many replicas there are; write the plan to a file with "
            "`python -m app plan --write FILE`, and launch that"
        )
    replicas, stages = run.batching.replicas, run.pipeline.stages
    _require_shares(replicas, stages, launch.instances)
    _require_one_shape(run)
    words = ["poprun"]
    if launch.hosts:
        words.append(f"--host={','.join(launch.hosts)}")
    words += [
        f"--num-instances={launch.instances}",
        f"--num-replicas={replicas}",
        f"--ipus-per-replica={stages}",
    ]
    domains = link_domains(run)
    if domains > 1:
        words.append(f"--num-ilds={domains}")
    if launch.instances > 1:
        words.append("--numa-aware=yes")
    if launch.partition is not None:
        words.append(f"--vipu-partition={launch.partition}")
    if launch.cache is not None:
        words.append(f"--executable-cache-path={launch.cache}")
    if len(launch.hosts) > 1:
        words += _mpi_words(launch.network)
    return words


def link_domains(run: Run) -> int:
    """Racks whose IPUs the run takes: within one, links join them, and gateways beyond."""
    links = run.system.links
    reach = RACK_IPUS if links is None else links.ipu.rack_ipus
    return -(-run.pipeline.stages * run.batching.replicas // reach)


def _mpi_words(network: Optional[str]) -> List[str]:
    exported = " ".join(f"-x {name}" for name in _EXPORTED)
    words = [f"--mpi-local-args={exported}"]
    if network is not None:
        only = f"--mca btl_tcp_if_include {network} --mca oob_tcp_if_include {network}"
        words.append(f"--mpi-global-args={only}")
    return words


def _require_shares(replicas: int, stages: int, instances: int) -> None:
    if replicas % instances:
        raise ConfigError(
            f"--instances: must divide the run's {replicas} replicas, got {instances}; give "
            "another number, or set batching.replicas"
        )
    ipus = stages * replicas // instances
    if ipus > IPUS_PER_PROCESS:
        raise ConfigError(
            f"--instances: an instance would take {ipus} IPUs, PopTorch lets it take "
            f"{IPUS_PER_PROCESS}; give {stages * replicas // IPUS_PER_PROCESS} instances or more"
        )


def _require_one_shape(run: Run) -> None:
    """PopRun fixes replicas and their IPUs for all that a program compiles."""
    for replicas, ipus in fine_tuning_shapes(run):
        if (replicas, ipus) != (run.batching.replicas, run.pipeline.stages):
            raise ConfigError(
                f"fine_tuning: takes {replicas} replicas of {ipus} IPU{'s' * (ipus > 1)} where "
                f"training takes {run.batching.replicas} of {run.pipeline.stages}, and poprun "
                "keeps to one; set fine_tuning.image_sizes=[], and fine-tune afterwards without "
                "poprun"
            )


def fine_tuning_shapes(run: Run) -> List[Tuple[int, int]]:
    """Replicas and IPUs of each in what follows the run; none where nothing does."""
    asked = run.fine_tuning
    if not asked.image_sizes:
        return []
    batching = run.batching if asked.batching is None else asked.batching
    pipeline = run.pipeline if asked.pipeline is None else asked.pipeline
    return [(batching.replicas, pipeline.stages)]


def main(arguments: Sequence[str]) -> int:
    """Print the words for a run; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m app.pod", description="PopRun's words.")
    parser.add_argument("--instances", type=int, required=True, metavar="N")
    parser.add_argument("--hosts", default="", metavar="HOST,...", help="this one first")
    parser.add_argument("--partition", metavar="NAME", help="of V-IPU")
    parser.add_argument("--network", metavar="NET", help="between hosts, such as 10.1.0.0/16")
    parser.add_argument("--cache", metavar="DIR", help="compiled programs, seen by all instances")
    parser.add_argument("train", nargs=argparse.REMAINDER, metavar="-- ARGUMENTS")
    options = parser.parse_args(arguments)
    try:
        hosts = tuple(host for host in options.hosts.split(",") if host)
        launch = Launch(
            options.instances,
            hosts,
            options.partition or None,
            options.network or None,
            options.cache or None,
        )
        print("\n".join(poprun_words(_run_of(options.train), launch)))
    except AppError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def _run_of(arguments: Sequence[str]) -> Run:
    """The run that ``train`` would take from its arguments."""
    parser = argparse.ArgumentParser(prog="train", allow_abbrev=False)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = arguments[1:] if arguments[:1] == ["--"] else arguments
    options, _ = parser.parse_known_args(list(given))
    return load_run(options.config, options.overrides)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
