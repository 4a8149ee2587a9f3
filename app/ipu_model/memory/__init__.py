"""What lives where and when: bytes on every tile, over the time of a program."""

from app.ipu_model.memory.levers import levers
from app.ipu_model.memory.measure import measure
from app.ipu_model.memory.result import IpuMemory, Lever, Misfit, Moment, Term
from app.ipu_model.memory.verdict import misfit, render_out_of_memory

__all__ = [
    "IpuMemory",
    "Lever",
    "Misfit",
    "Moment",
    "Term",
    "levers",
    "measure",
    "misfit",
    "render_out_of_memory",
]
