"""The numbers that the page's script shows: operations, moments and tiles, in compact lists."""

import json
from typing import Any, Dict, List

from app.ipu_model.memory import IpuMemory
from app.ipu_model.report.charts import columns
from app.ipu_model.report.memory_section import TILE_COLUMNS
from app.ipu_model.report.units import ratio
from app.ipu_model.simulation import OpCost, Simulation

__all__ = ["page_data", "script_json"]


class Interner:
    """Numbers for strings, so that a name that comes a thousand times is written once."""

    def __init__(self) -> None:
        self.strings: List[str] = []
        self._numbers: Dict[str, int] = {}

    def __call__(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.strings)
            self.strings.append(text)
        return self._numbers[text]


def page_data(simulation: Simulation) -> Dict[str, Any]:
    """`ops`: id, label, module, phase, IPU, shape, repeats, cycles (compute, exchange, sync), FLOPs
    per cycle and tile, temporaries. `moments`, for each IPU: label, module, phase, live bytes,
    temporaries of them. `tiles`, for each IPU: tiles in a column, always-live and peak bytes.
    Labels, modules, phases and shapes are places in `strings`."""
    intern = Interner()
    tile_count = max(len(result.memory.tile_peak_bytes) for result in simulation.per_ipu)
    ops = [_op(op, tile_count, intern) for op in simulation.ops]
    moments = [
        [
            [
                intern(moment.label),
                intern(moment.scope),
                intern(moment.phase),
                moment.live_tile_bytes,
                moment.temporary_tile_bytes,
            ]
            for moment in result.memory.timeline
        ]
        for result in simulation.per_ipu
    ]
    return {
        "ops": ops,
        "moments": moments,
        "always": [result.memory.always_live_tile_bytes for result in simulation.per_ipu],
        "tiles": [_tiles(result.memory) for result in simulation.per_ipu],
        "strings": intern.strings,
    }


def _op(op: OpCost, tile_count: int, intern: Interner) -> List[float]:
    cost = op.cost
    return [
        op.op,
        intern(op.label),
        intern(op.scope),
        intern(op.phase),
        op.ipu,
        intern(" × ".join(str(size) for size in op.result_shape)),
        op.repeats,
        round(cost.compute_cycles),
        round(cost.exchange_cycles),
        round(cost.sync_cycles),
        round(ratio(cost.flops, cost.cycles * tile_count), 2),
        round(cost.temporary_tile_bytes),
    ]


def _tiles(memory: IpuMemory) -> Dict[str, Any]:
    width, peak = columns(memory.tile_peak_bytes, TILE_COLUMNS)
    _, always = columns(memory.tile_always_live_bytes, TILE_COLUMNS)
    return {"width": width, "always": always, "peak": peak}


def script_json(data: Dict[str, Any]) -> str:
    """JSON that can stand in a <script> element: no text in it ends the element or starts a
    comment."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
