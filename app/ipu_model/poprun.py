"""``python -m app.ipu_model poprun``: the instances of a program, each on the IPU Model.

It takes poprun's options. Those that describe a run are mapped to processes of this host and to the
environment that poprun gives them; those that describe a POD, such as partitions and NUMA, have
nothing to act upon here. Source: Graphcore, *PopDist and PopRun user guide*, "PopRun command line".
"""

import argparse
import os
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Dict, List, NoReturn, Sequence

_LOCAL = {"localhost", "127.0.0.1"}
_OF_A_POD = (
    "--executable-cache-path",
    "--host-rank",
    "--host-subnet",
    "--interface",
    "--ipu-clock-frequency",
    "--mpi-global-args",
    "--mpi-local-args",
    "--numa-aware",
    "--num-ilds",
    "--numa-cores-per-instance",
    "--offline-mode",
    "--process-placement",
    "--remove-partition",
    "--reset-partition",
    "--sync-type",
    "--synchronisation-rings",
    "--topology",
    "--update-partition",
    "--vipu-allocation",
    "--vipu-cluster",
    "--vipu-partition",
    "--vipu-server-host",
    "--vipu-server-port",
    "--vipu-server-timeout",
)
_FLAGS_OF_A_POD = ("--print-topology", "-v", "-vv", "--verbose", "--tag-output")


class PoprunError(Exception):
    """What was asked for cannot be run; the message says why and what to do."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PoprunError(f"poprun: {message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m app.ipu_model poprun",
        description="Start the instances of a program on this host, each on the IPU Model.",
        allow_abbrev=False,
    )
    parser.add_argument("-i", "--num-instances", type=int, default=1)
    parser.add_argument("-r", "--num-replicas", type=int, default=None, help="of all instances")
    parser.add_argument("--ipus-per-replica", type=int, default=1)
    parser.add_argument("--num-local-replicas", type=int, help="of each instance")
    parser.add_argument("--only-output-from-instance", type=int, metavar="I")
    parser.add_argument("-H", "--host", default="localhost", help="this one alone")
    for option in _OF_A_POD:
        parser.add_argument(option, help=argparse.SUPPRESS)
    for flag in _FLAGS_OF_A_POD:
        parser.add_argument(flag, action="store_true", dest="of_a_pod", help=argparse.SUPPRESS)
    parser.add_argument("program", nargs=argparse.REMAINDER, metavar="PROGRAM ARGUMENT ...")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Start the instances and wait; the exit code is that of the first one to fail.

    Raises:
        PoprunError: options that cannot be met here.
    """
    options = _parser().parse_args(arguments)
    instances = options.num_instances
    if options.num_local_replicas is not None:
        replicas = options.num_local_replicas * instances
    else:
        replicas = options.num_replicas if options.num_replicas is not None else instances
    _check(options, instances, replicas)
    address = _free_address()
    processes: List[subprocess.Popen[bytes]] = []

    def pass_on(number: int, frame: object) -> None:
        for process in processes:
            process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        for index in range(instances):
            silent = options.only_output_from_instance not in (None, index)
            output = subprocess.DEVNULL if silent else None
            own = _environment(options, index, replicas // instances, address)
            processes.append(
                subprocess.Popen(
                    _command(options.program), env={**os.environ, **own}, stdout=output
                )
            )
        return _wait(processes)
    finally:
        _end(processes)  # all have ended, unless this is an error or an interrupt
        signal.signal(signal.SIGTERM, before)


def _check(options: argparse.Namespace, instances: int, replicas: int) -> None:
    if min(instances, replicas, options.ipus_per_replica) < 1:
        raise PoprunError("poprun: every number must be at least 1; correct the options")
    if replicas % instances:
        raise PoprunError(
            f"--num-replicas {replicas}: cannot be shared out evenly among {instances} instances; "
            "give a multiple of --num-instances"
        )
    hosts = {host.partition(":")[0] for host in options.host.split(",")}
    if not hosts <= {*_LOCAL, socket.gethostname()}:
        raise PoprunError(
            f"--host {options.host}: the IPU Model starts processes on this host only; leave it out"
        )
    if not options.program:
        raise PoprunError("poprun: names no program; give one after the options")


def _command(program: Sequence[str]) -> List[str]:
    """The program on the IPU Model, with or without an interpreter in front of it."""
    interpreter = re.fullmatch(r"(.*/)?python(3(\.\d+)?)?", program[0]) is not None
    return [sys.executable, "-m", "app.ipu_model", *program[1 if interpreter else 0 :]]


def _environment(
    options: argparse.Namespace, index: int, replicas: int, address: str
) -> Dict[str, str]:
    instances = options.num_instances
    return {
        "POPDIST_NUM_TOTAL_REPLICAS": str(instances * replicas),
        "POPDIST_NUM_LOCAL_REPLICAS": str(replicas),
        "POPDIST_NUM_IPUS_PER_REPLICA": str(options.ipus_per_replica),
        "POPDIST_UNIFORM_REPLICAS_PER_INSTANCE": "1",
        "POPDIST_REPLICA_INDEX_OFFSET": str(index * replicas),
        "POPDIST_LOCAL_INSTANCE_INDEX": str(index),
        "OMPI_COMM_WORLD_SIZE": str(instances),
        "OMPI_COMM_WORLD_RANK": str(index),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(index),
        "IPU_MODEL_FABRIC": address,
    }


def _wait(processes: "Sequence[subprocess.Popen[bytes]]") -> int:
    """Until all have ended; one that fails ends the others, as mpirun does."""
    while any(process.poll() is None for process in processes):
        failed = [process.returncode for process in processes if process.poll()]
        if failed:
            _end(processes)
            return int(failed[0]) if failed[0] > 0 else 128 - int(failed[0])
        time.sleep(0.02)
    return next((p.returncode for p in processes if p.returncode), 0)


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait()


def _free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
