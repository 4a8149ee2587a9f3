"""The one place that imports PopTorch and PopDist: the real ones, or the IPU Model's drop-ins.

All other modules say ``from app.sdk import poptorch``.
"""

from typing import TYPE_CHECKING, Any, Callable

from app.backend import chosen

if TYPE_CHECKING or chosen() == "ipu-model":
    from app.ipu_model import poptorch
    from app.ipu_model.poptorch._device.fabric import connect as connect_instances
else:
    import poptorch

    def connect_instances(all_reduce: Callable[..., Any]) -> None:
        """Nothing to connect: IPUs have links of their own."""


__all__ = ["connect_instances", "poprun_options", "poptorch"]


def poprun_options(ipus_per_replica: int) -> poptorch.Options:
    """Options of an instance that poprun started, with what poprun decided set.

    Raises:
        RuntimeError: poprun gave each replica another number of IPUs.
    """
    if TYPE_CHECKING or chosen() == "ipu-model":
        from app.ipu_model.popdist import poptorch as distributed
    else:
        import popdist.poptorch as distributed
    return distributed.Options(ipus_per_replica=ipus_per_replica)
