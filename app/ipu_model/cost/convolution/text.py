"""Requests and plans as JSON: for files and for other processes, without pickles."""

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any, Dict, Mapping, Tuple

from app.ipu_model.cost.convolution.methods import Candidate, Method
from app.ipu_model.cost.convolution.options import ConvOptions, DataType, Pass
from app.ipu_model.cost.convolution.params import ConvParams
from app.ipu_model.cost.convolution.plan import ConvPlan, CycleBreakdown, Partition
from app.ipu_model.cost.convolution.transforms import Transform
from app.ipu_model.cost.target_view import PlannerTarget

__all__ = ["Request", "plain", "plan_of", "plan_text", "request_of", "request_text"]

Request = Tuple[ConvParams, PlannerTarget, ConvOptions]


def plain(value: Any) -> Any:
    """Dataclasses as mappings, enums as their values, tuples as lists."""
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    return [plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list) else value


def request_text(request: Request) -> str:
    """A request as one line of JSON."""
    return json.dumps(plain(request), separators=(",", ":"))


def request_of(text: str) -> Request:
    """The request of `request_text`."""
    params, target, options = json.loads(text)
    for name in ("data_type", "partials_type", "inter_tile_partials_type", "output_type"):
        options[name] = None if options[name] is None else DataType(options[name])
    options["pass_"] = Pass(options["pass_"])
    given = {name: _tuples(value) for name, value in params.items()}
    return ConvParams(**given), PlannerTarget(**target), ConvOptions(**options)


def plan_text(plan: ConvPlan) -> str:
    """A plan as one line of JSON."""
    return json.dumps(plain(plan), separators=(",", ":"))


def plan_of(text: str) -> ConvPlan:
    """The plan of `plan_text`."""
    given: Dict[str, Any] = {name: _tuples(value) for name, value in json.loads(text).items()}

    def part(name: str) -> Dict[str, Any]:
        found: Mapping[str, Any] = given.pop(name)
        return {key: _tuples(value) for key, value in found.items()}

    candidate = part("candidate")
    candidate["method"] = Method(candidate["method"])
    candidate["partial_type"] = DataType(candidate["partial_type"])
    return ConvPlan(
        params=ConvParams(**part("params")),
        transform=Transform(**part("transform")),
        candidate=Candidate(**candidate),
        partition=Partition(**part("partition")),
        cycles=CycleBreakdown(**part("cycles")),
        **given,
    )
