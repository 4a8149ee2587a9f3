"""Jobs that simulate: a run of this project, or a row of a published table."""

from typing import Any, Dict, List, Mapping, Optional

from app import backend
from app.config import load_run
from app.config.loader import CONFIG_ROOT
from app.ipu_model.simulation import Simulation
from app.simulate import simulate_run
from benchmarks.published import simulate_row
from benchmarks.suite.jobs import Job, Result

__all__ = ["row_job", "run_job", "simulated_row", "simulated_run"]


def run_job(config: str, settings: Optional[List[str]] = None, mode: str = "training") -> Job:
    """Simulate a run file below ``ipu_configs`` with settings as ``--set`` takes them.

    The result has the keys of `figures`.
    """
    return Job.of(simulated_run, config=config, settings=settings or [], mode=mode)


def row_job(row: Mapping[str, str]) -> Job:
    """Simulate a row with the columns of ``benchmarks/published/throughput.csv``, as the program
    that was published: its SDK, and the authors' way to compute proxy norm."""
    return Job.of(simulated_row, row={key: value for key, value in row.items() if value})


def simulated_run(config: str, settings: List[str], mode: str) -> Result:
    """See `run_job`."""
    backend.choose("ipu-model")
    run = load_run(CONFIG_ROOT / config, settings)
    batching = run.batching
    simulation = simulate_run(run, "inference" if mode == "inference" else "training")
    return {
        **figures(simulation),
        "micro_batch": batching.micro_batch,
        "gradient_accumulation": batching.gradient_accumulation,
        "image_size": run.data.image_size,
    }


def simulated_row(row: Dict[str, str]) -> Result:
    """See `row_job`."""
    return figures(simulate_row(row))


def figures(simulation: Simulation) -> Dict[str, Any]:
    """What charts need of a simulation."""
    return {
        "images_per_s": simulation.throughput_samples_per_s,
        "step_time_s": simulation.step_time_s,
        "latency_s": simulation.latency_s,
        "all_reduce_s": simulation.all_reduce_s,
        "host_s": simulation.host_s,
        "fits": simulation.fits,
        "peak_tile_bytes": simulation.peak_tile_bytes,
        "tile_memory_bytes": simulation.tile_memory_bytes,
        "global_batch_size": simulation.global_batch_size,
        "ipus": simulation.ipus,
        "replicas": simulation.replicas,
        "stages": simulation.stages,
        "parameters": simulation.parameters,
        "macs_per_sample": simulation.macs_per_sample,
        "sdk": simulation.sdk,
    }
