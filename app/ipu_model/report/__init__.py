"""What the IPU Model says of a program, for people and for other programs.

`summary` for a terminal, `as_json_text` for scripts, and `write` for a browser and for Perfetto;
each takes a `Simulation` and changes nothing.
"""

import json
from pathlib import Path
from typing import Optional, Union

from app.ipu_model.report import page, trace_events
from app.ipu_model.report.as_json import simulation_dict
from app.ipu_model.report.text import summary
from app.ipu_model.simulation import Simulation

__all__ = ["as_json_text", "simulation_dict", "summary", "write"]


def as_json_text(simulation: Simulation, config: Optional[str] = None) -> str:
    """`simulation_dict` as text; `config` names the run in place of the simulation's own name."""
    content = simulation_dict(simulation)
    if config is not None:
        content["config"] = config
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)


def write(simulation: Simulation, directory: Union[str, Path]) -> None:
    """Write the page, `index.html`, and the trace, `trace.json`, into a directory, which is made
    if need be."""
    page.write(simulation, directory)
    trace_events.write(simulation, Path(directory) / "trace.json")
