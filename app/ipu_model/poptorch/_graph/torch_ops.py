"""``torch.ops.poptorch``: PopTorch's operations under the names programs and exporters use.

Each is the Python function of the same purpose, so that gradients flow through. The schemas are
those of graphcore/poptorch, poptorch/source/dispatch_tracer/RegisterAtenOverloads.cpp (SDK 3.4).
"""

from typing import Any, Callable, Dict, List

import torch
from torch import Tensor

from app.ipu_model.poptorch import ops
from app.ipu_model.poptorch._graph import control_flow, overlap, placement, points, tensor_text
from app.ipu_model.poptorch._graph.capture import active_capture
from app.ipu_model.poptorch._graph.device_operations import annotate
from app.ipu_model.poptorch.errors import graph_error

_CASTS = {
    "FLOAT": torch.float32,
    "FLOAT32": torch.float32,
    "FLOAT16": torch.float16,
    "INT32": torch.int32,
    "INT64": torch.int32,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "BOOL": torch.bool,
}


def _internal_cast(self: Tensor, dtype: str) -> Tensor:
    """On the host, half is computed in float32 and other types are left as they are."""
    if dtype not in _CASTS:
        raise graph_error(f"internal_cast: unknown type {dtype}, expected one of {list(_CASTS)}")
    if active_capture() is not None:
        return self.to(_CASTS[dtype])
    return self.float() if dtype in ("FLOAT16", "FLOAT32") else self


def _annotation(kind: str, *names: str) -> Callable[..., None]:
    def note(*values: Any) -> None:
        annotate(kind, **dict(zip(names, values)))

    return note


def _given(outputs: List[Tensor]) -> List[Tensor]:
    return outputs


def _custom_operation(inputs: List[Tensor], name: str, domain: str, *_: Any) -> List[Tensor]:
    ops.refuse_custom_op(name, domain)


def _ctc_beam_search_decoder(*_: Any) -> Any:
    ops.refuse_ctc_beam_search_decoder()


_OPERATIONS: Dict[str, Callable[..., Any]] = {
    "begin_ipu_block(int stage_id, int phase_id, int ipu_id) -> ()": _annotation(
        placement.RAW_BEGIN, "stage_id", "phase_id", "ipu_id"
    ),
    "end_ipu_block() -> ()": _annotation(placement.RAW_END),
    "start_for_loop(Tensor[] inputs) -> ()": control_flow.refuse_raw_loop,
    "start_if_block(Tensor condition) -> ()": control_flow.refuse_raw_loop,
    "start_else_block(Tensor[] outputs_true) -> ()": control_flow.refuse_raw_loop,
    "end_for_loop(Tensor[] outputs, Tensor[] inputs, int trip_count) -> Tensor[]": (
        control_flow.refuse_raw_loop
    ),
    "end_if_block(Tensor[] outputs, Tensor condition) -> Tensor[]": control_flow.refuse_raw_loop,
    "optimizer_group(int group, Tensor[] inputs) -> ()": _annotation(
        "optimizer_group", "group", "inputs"
    ),
    "begin_multi_conv() -> ()": _annotation("begin_multi_conv"),
    "end_multi_conv(float[]? available_memory_proportions, int[]? partials_types, int? plan_type, "
    "int? per_conv_reserved_tiles, float? cycle_back_off, int[]? enableConvDithering) -> ()": (
        _annotation(
            "end_multi_conv",
            "available_memory_proportions",
            "partials_types",
            "plan_type",
            "per_conv_reserved_tiles",
            "cycle_back_off",
            "enableConvDithering",
        )
    ),
    "push_name_scope(str name) -> ()": _annotation("push_name_scope", "name"),
    "pop_name_scope() -> ()": _annotation("pop_name_scope"),
    "set_attribute(str attribute, str key, str value) -> ()": _annotation(
        "set_attribute", "attribute", "key", "value"
    ),
    "clear_attribute(str attribute, str key) -> ()": _annotation(
        "clear_attribute", "attribute", "key"
    ),
    "ipu_print_tensor(Tensor self, str title, int print_gradient, int summarize_threshold, "
    "int edge_items, int max_line_width, int digits, int float_format, str separator, "
    "str open_bracket, str close_bracket) -> Tensor": tensor_text.print_values,
    "nop(Tensor self) -> Tensor": ops.do_nothing,
    "set_matmul_serialization(Tensor matmul, str mode, int factor, bool keep_precision) "
    "-> Tensor": ops.set_matmul_serialization,
    "set_overlap_for_input(Tensor t, str mode) -> Tensor": overlap.mark_input,
    "set_overlap_for_output(Tensor t, str mode) -> Tensor": overlap.mark_output,
    "recomputation_checkpoint(Tensor self) -> Tensor": ops.mark_checkpoint,
    "set_available_memory(Tensor t, float mem) -> Tensor": ops.set_available_memory,
    "custom_operation(Tensor[] inputs, str name, str domain, int domain_version, int num_outputs, "
    "Tensor[] outputs, str attributes) -> Tensor[]": _custom_operation,
    "ctc_beam_search_decoder(Tensor probs, Tensor lengths, int blank, int beam_width, "
    "int top_paths) -> (Tensor, Tensor, Tensor)": _ctc_beam_search_decoder,
    "dynamic_slice(Tensor self, int dim, Tensor start, int size, int step) -> Tensor": ops.slice_at,
    "dynamic_update(Tensor self, Tensor src, int dim, Tensor start, int size) -> Tensor": (
        ops.update_at
    ),
    "identity_loss(Tensor x, int reduction) -> Tensor": ops.reduced_loss,
    "internal_cast(Tensor self, str dtype) -> Tensor": _internal_cast,
    "end_cpu_op(Tensor[] output) -> Tensor[]": _given,
    "call_cpu_op(Tensor[] inputs, str name) -> ()": _annotation("cpu_op", "inputs", "name"),
    "fps(Tensor src, int[] ptr, float ratio, bool random_start) -> Tensor": points.sample_farthest,
    "nearest(Tensor x, Tensor y, Tensor batch_x, Tensor batch_y) -> Tensor": (
        points.index_of_nearest
    ),
    "nearest_batch_list(Tensor x, Tensor y, int[] batch_x, int[] batch_y) -> Tensor": (
        points.index_of_nearest
    ),
}


def _register() -> torch.library.Library:
    library = torch.library.Library("poptorch", "DEF")
    for schema, function in _OPERATIONS.items():
        library.define(schema)
        name = schema.partition("(")[0]
        library.impl(name, function, "CompositeImplicitAutograd")
    return library


_library = _register()
