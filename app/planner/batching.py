"""Ways to batch: stages, replicas, micro-batch and gradient accumulation."""

from dataclasses import dataclass
from typing import Iterator, List, Tuple

from app.planner.request import PlanError, Request

__all__ = ["Batching", "batchings"]


@dataclass(frozen=True)
class Batching:
    """`replicas` pipelines of `stages` IPUs each; every one runs `accumulation` micro-batches per
    weight update."""

    stages: int
    replicas: int
    micro_batch: int
    accumulation: int

    @property
    def ipus(self) -> int:
        """IPUs at work."""
        return self.stages * self.replicas


def batchings(request: Request) -> Tuple[Batching, ...]:
    """All that the request admits.

    Stages and replicas are powers of two, as partitions of a system are. Of replicas there are as
    many as the IPUs allow and the global batch can be dealt out to; one for the least latency, and
    any number for the largest micro-batch.

    Raises:
        PlanError: there is none; says why.
    """
    found = list(_all(request))
    if not found:
        raise PlanError(_why_none(request))
    return tuple(dict.fromkeys(found))


def _all(request: Request) -> Iterator[Batching]:
    training = request.execution.training
    every = request.objective == "micro_batch"
    for stages in _stage_counts(request):
        for replicas in _replica_counts(request, stages):
            share = request.global_batch // replicas
            found = []
            for micro_batch in _micro_batches(request, share):
                accumulation = share // micro_batch
                enough = stages == 1 or accumulation >= 2 * stages - 1
                if enough or not training:
                    count = accumulation if training else 1
                    found.append(Batching(stages, replicas, micro_batch, count))
            yield from found
            if found and not every:
                break  # as many replicas as there can be


def _stage_counts(request: Request) -> List[int]:
    fixed = request.fixed
    if fixed.splits is not None:
        return [len(fixed.splits) + 1]
    if fixed.stages is not None:
        return [fixed.stages]
    counts = _powers_of_two(request.most_ipus)
    return counts[1:] if fixed.recomputation == "pipeline" else counts


def _replica_counts(request: Request, stages: int) -> List[int]:
    if request.fixed.replicas is not None:
        fits = stages * request.fixed.replicas <= request.most_ipus
        divides = request.global_batch % request.fixed.replicas == 0
        return [request.fixed.replicas] if fits and divides else []
    counts = _powers_of_two(request.most_ipus // stages)
    if request.objective == "latency":
        counts = counts[:1]
    return [each for each in reversed(counts) if request.global_batch % each == 0]


def _micro_batches(request: Request, share: int) -> List[int]:
    """Divisors of a replica's share of the global batch; all of it, in inference."""
    if not request.execution.training:
        return [share] if request.fixed.micro_batch in (None, share) else []
    divisors = [each for each in range(1, share + 1) if share % each == 0]
    fixed = request.fixed.micro_batch
    return [each for each in divisors if fixed in (None, each)]


def _powers_of_two(most: int) -> List[int]:
    return [1 << bits for bits in range(most.bit_length()) if 1 << bits <= most]


def _why_none(request: Request) -> str:
    fixed, batch = request.fixed, request.global_batch
    held = [
        f"{name} {value}"
        for name, value in (
            ("stages", len(fixed.splits) + 1 if fixed.splits is not None else fixed.stages),
            ("replicas", fixed.replicas),
            ("micro-batch", fixed.micro_batch),
        )
        if value is not None
    ]
    kept = f" with {', '.join(held)} kept" if held else ""
    if not request.execution.training:
        return (
            f"global_batch: {batch} cannot be dealt out to {request.most_ipus} IPUs{kept}: it must "
            "be replicas x micro-batch; change it, or keep less"
        )
    return (
        f"global_batch: {batch} cannot be dealt out to {request.most_ipus} IPUs{kept}: it must be "
        "replicas x micro-batch x accumulation, and n > 1 stages need an accumulation of 2n - 1 at "
        "least; change it, or keep less"
    )
