"""From a forward graph to everything that the device runs.

One micro-batch and one weight update: backward pass, optimiser, recomputation, copies between IPUs,
stashes and host transfers. Each step is a function from graph to graph in a module of its own.

The order of the operations is the order in which they run: forward stages in ascending order, then
their backward stages (recomputation among them) in descending order, then what comes once per
weight update. Tensors keep their ids. Operations get new ones, to which `forward_of` refers; these
are unique but not in the order of the operations.
"""

from app.ipu_model.autodiff import grow_backward, grow_update
from app.ipu_model.graph import Graph
from app.ipu_model.lowering.copies import insert_copies
from app.ipu_model.lowering.editor import numbered
from app.ipu_model.lowering.hoisting import hoist_parameter_ops
from app.ipu_model.lowering.host import insert_host_transfers
from app.ipu_model.lowering.in_place import write_in_place
from app.ipu_model.lowering.keeping import kept_ops
from app.ipu_model.lowering.ordering import order_for_memory
from app.ipu_model.lowering.placement import merge_stages, settle_stages
from app.ipu_model.lowering.pruning import without_dead_ops
from app.ipu_model.lowering.recompute import insert_recomputation
from app.ipu_model.lowering.rematerialise import rematerialise
from app.ipu_model.lowering.stashes import insert_stashes, is_stashed
from app.ipu_model.lowering.validation import validate
from app.ipu_model.lowering.variables import float_variables
from app.ipu_model.program import Execution

__all__ = ["lower", "validate"]


def lower(forward: Graph, execution: Execution) -> Graph:
    """Everything the device runs for one micro-batch and one weight update.

    Args:
        forward: the traced forward pass; its operations carry stage and IPU. It does not change.
        execution: how it runs.

    Raises:
        GraphError: a stage on two IPUs, a pipeline that flows backwards, an unknown checkpoint.
    """
    graph = merge_stages(without_dead_ops(forward))
    if execution.float_variables:
        graph = float_variables(graph)
    graph = order_for_memory(numbered(graph))
    if execution.training:
        graph = grow_update(grow_backward(graph), execution)
        graph = rematerialise(graph, execution.rematerialised)
    graph = settle_stages(graph)
    if execution.hoist_parameter_ops:
        graph = without_dead_ops(hoist_parameter_ops(graph, execution))
    graph = insert_copies(graph, pipelined=execution.schedule != "sharded")
    if execution.training:
        graph = insert_recomputation(graph, kept_ops(graph, execution))
    if is_stashed(execution):
        graph = insert_stashes(graph, execution.schedule)
    if execution.host_transfers:
        graph = insert_host_transfers(graph)
    return write_in_place(graph)
