"""Plans of many convolutions: from memory, from disk, or searched, on all cores if need be."""

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from app.ipu_model.cost.convolution.cache import PlanCache, cache_directory, plan_key
from app.ipu_model.cost.convolution.options import ConvOptions
from app.ipu_model.cost.convolution.params import ConvParams, canonical
from app.ipu_model.cost.convolution.plan import ConvPlan
from app.ipu_model.cost.convolution.planner import search
from app.ipu_model.cost.convolution.text import Request, plan_of, request_text
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["forget_plans", "plan", "plan_many"]

_WORKER = "app.ipu_model.cost.convolution.worker"
_WORTH_A_PROCESS = 40  # searches of about 10 ms, against a start of 0.3 s
_PLANS: Dict[Request, ConvPlan] = {}
_BY_PROPORTION: Dict[Request, Dict[float, ConvPlan]] = {}
"""The same plans, by request without its proportion and then by proportion."""


def plan(params: ConvParams, target: PlannerTarget, options: ConvOptions) -> ConvPlan:
    """The plan that the modelled planner chooses, remembered in memory and on disk."""
    return plan_many([(params, target, options)])[0]


def plan_many(requests: Sequence[Request], processes: int = 0) -> List[ConvPlan]:
    """The plans of all requests, in their order.

    What no cache holds is searched by this process and, where that is worth their start, by others:
    as many as there are cores, or `processes` in all.
    """
    asked = [_canonical(request) for request in requests]
    missing = [request for request in dict.fromkeys(asked) if request not in _PLANS]
    if missing:
        _recall(missing, processes or _cores())
    return [_PLANS[request] for request in asked]


def forget_plans() -> None:
    """Forget the plans in memory; those on disk stay."""
    _PLANS.clear()
    _BY_PROPORTION.clear()


@lru_cache(maxsize=16384)
def _canonical(request: Request) -> Request:
    # The clock changes no plan.
    return canonical(request[0]), replace(request[1], clock_hz=1.0), request[2]


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


def _recall(requests: Sequence[Request], processes: int) -> None:
    """Bring plans into memory, from disk or by a search whose result goes to disk."""
    cache = PlanCache(cache_directory())
    keys = {request: plan_key(request) for request in requests}
    known = cache.load(keys.values())
    for request, key in keys.items():
        if key in known:
            _remember(request, known[key])
    missing = [request for request in requests if keys[request] not in known]
    found = {
        request: plan for request, plan in zip(missing, map(_of_looser_bound, missing)) if plan
    }
    unplanned = [request for request in missing if request not in found]
    found.update(zip(unplanned, _search_all(unplanned, processes)))
    for request, plan in found.items():
        _remember(request, plan)
    cache.store({keys[request]: plan for request, plan in found.items()})


def _remember(request: Request, plan: ConvPlan) -> None:
    _PLANS[request] = plan
    _BY_PROPORTION.setdefault(_unbounded(request), {})[_proportion(request)] = plan


def _of_looser_bound(request: Request) -> Optional[ConvPlan]:
    """The plan of the same request under a looser bound, if it keeps the tighter one as well: what
    is cheapest of all that the looser bound admits is cheapest of the fewer that are left."""
    proportion = _proportion(request)
    bound_bytes = int(request[1].tile_memory_bytes * proportion)
    for looser, plan in _BY_PROPORTION.get(_unbounded(request), {}).items():
        if looser > proportion > 0 and plan.fits_bound and plan.temporary_bytes <= bound_bytes:
            return plan
    return None


def _proportion(request: Request) -> float:
    return request[2].available_memory_proportion


def _unbounded(request: Request) -> Request:
    return request[0], request[1], replace(request[2], available_memory_proportion=0.0)


def _search_all(requests: Sequence[Request], processes: int) -> List[ConvPlan]:
    shares = max(1, min(processes, len(requests) // _WORTH_A_PROCESS))
    with ExitStack() as stack:
        # Neighbours in a network take alike: dealt out in turn, the shares are about even.
        helpers = [
            stack.enter_context(_Helper(requests[first::shares])) for first in range(1, shares)
        ]
        plans = [[search(*request) for request in requests[::shares]]]
        plans += [helper.plans() for helper in helpers]
    return [plans[at % shares][at // shares] for at in range(len(requests))]


class _Helper:
    """A process that searches some plans, to be used in a `with` statement.

    It runs a module by name, so it needs neither the caller's `__main__` nor a fork of it, and it
    speaks JSON. If it cannot start, or ends badly, its part is searched here.
    """

    def __init__(self, requests: Sequence[Request]) -> None:
        self.requests = requests
        self.process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> "_Helper":
        with ExitStack() as stack:
            asked = stack.enter_context(tempfile.TemporaryFile())
            self.told = stack.enter_context(tempfile.TemporaryFile())
            lines = "".join(f"{request_text(request)}\n" for request in self.requests)
            asked.write(lines.encode())
            asked.seek(0)
            path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
            with suppress(OSError):
                self.process = subprocess.Popen(
                    [sys.executable, "-m", _WORKER],
                    stdin=asked,
                    stdout=self.told,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "PYTHONPATH": path},
                )
            self.open_files = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.open_files.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def plans(self) -> List[ConvPlan]:
        """Its plans, once it is done."""
        if self.process is not None and self.process.wait() == 0:
            self.told.seek(0)
            lines = self.told.read().decode().splitlines()
            if len(lines) == len(self.requests):
                return [plan_of(line) for line in lines]
        return [search(*request) for request in self.requests]
