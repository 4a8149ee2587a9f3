"""``train --compile-only``: every program of a run compiled, without IPUs, images or files."""

from typing import TYPE_CHECKING

from app.config import Run
from app.distributed.world import World
from app.errors import MisfitError

if TYPE_CHECKING:
    from app.training.compilation import Compiled


def compile_only(run: Run, computed_by: str, instances: int, by_poprun: bool) -> int:
    """Compile for the run's system and say what came of it, on the IPU Model whether it fits.

    instances: those that are to share the run, whose programs have a share of the replicas.
    by_poprun: whether PopRun started this process, which then decides them.

    Raises:
        AppError: a program that does not compile or does not fit.
    """
    from app.training.compilation import compile_offline

    if computed_by == "ipu-model":  # simulated in seconds, where large programs take minutes
        _say_what_fits(run)
    world = World()
    if instances > 1:
        world.count, world.launcher = instances, "poprun" if by_poprun else "horovod"
    compile_offline(run, world, _say)
    if computed_by == "ipu-model":
        print(f"{run.name}: all programs compile; the IPU Model keeps none of them")
    elif run.execution.executable_cache is None:
        print(
            f"{run.name}: the programs are not kept; set execution.executable_cache to a folder "
            "for the run to find them there"
        )
    else:
        print(f"{run.name}: the programs are kept in {run.execution.executable_cache}")
    return 0


def _say(compiled: "Compiled") -> None:
    run, program, seconds = compiled
    print(
        f"{run.name}: {program} program at {run.data.image_size} px compiled for "
        f"{run.system.name} in {seconds:.1f} s (measured)"
    )


def _say_what_fits(run: Run) -> None:
    """PopTorch's options name a generation of IPUs; the run names a system."""
    from app.ipu_model.report.sentences import verdict
    from app.ipu_model.report.units import count
    from app.simulate import simulate_run

    for mode, program in (("training", "training"), ("inference", "test")):
        simulation = simulate_run(run, mode)  # type: ignore[arg-type]  # the modes themselves
        if not simulation.fits:
            raise MisfitError(f"{run.name}, its {program} program: {verdict(simulation)}")
        print(
            f"{run.name}: {program} program {verdict(simulation)}, "
            f"{count(simulation.throughput_samples_per_s)} samples/s (simulated)"
        )
