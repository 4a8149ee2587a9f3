"""Translation of convolutions, matrix products, norms, pooling and resizing."""

from typing import Any, List, Sequence, Tuple

from app.ipu_model.graph import Element
from app.ipu_model.trace.call import Call, Number, Results, rule

Pairs = Tuple[Tuple[int, int], ...]


def _per_dim(given: Any, rank: int) -> Tuple[int, ...]:
    listed = list(given) if isinstance(given, (list, tuple)) else [given]
    return tuple(listed * rank if len(listed) == 1 else listed)


@rule("convolution", "_convolution")
def _convolution(call: Call) -> Results:
    """Weights in the input's type (poptorch casts them); the bias is an addition of its own."""
    x = call.id("input")
    weight = call.to.cast(call.id("weight"), call.type)
    field = len(call.shape) - 2
    transposed = bool(call.get("transposed"))
    attributes = {
        "stride": _per_dim(call.get("stride"), field),
        "padding": tuple((p, p) for p in _per_dim(call.get("padding"), field)),
        "dilation": _per_dim(call.get("dilation"), field),
        "groups": call.get("groups"),
    }
    if transposed:
        attributes["output_padding"] = _per_dim(call.get("output_padding"), field)
    kind = "conv_transpose" if transposed else "conv"
    y = call.emit(kind, (call.to.cast(x, call.type), weight), **attributes)
    bias = call.maybe_id("bias")
    if bias is None:
        return y
    per_channel = (1, call.shape[1], *[1] * field)
    return call.to.binary("add", y, call.to.reshaped(call.to.cast(bias, call.type), per_channel))


def _product(call: Call, a: int, b: int) -> int:
    """a [..., M, K] times b [..., K, N]."""
    to = call.to
    a, b = to.cast(a, call.type), to.cast(b, call.type)
    shape = (*to.tensor(a).shape[:-1], to.tensor(b).shape[-1])
    linear = a in to.from_parameters or b in to.from_parameters
    return to.emit("matmul", (a, b), shape, linear=linear)


@rule("mm", "bmm")
def _matmul(call: Call) -> Results:
    return _product(call, call.id("self"), call.id("mat2"))


@rule("mv", "dot", "vdot")
def _vector_product(call: Call) -> Results:
    to, a, b = call.to, call.id("self"), call.id("vec", "tensor", "other")
    size = to.tensor(b).elements
    a = to.reshaped(a, (1, size)) if call.name != "mv" else a
    return to.reshaped(_product(call, a, to.reshaped(b, (size, 1))), call.shape)


@rule("addmm", "baddbmm", "addmv")
def _add_product(call: Call) -> Results:
    to = call.to
    first, second = call.id("mat1", "batch1", "mat"), call.id("mat2", "batch2", "vec")
    if call.name == "addmv":
        second = to.reshaped(second, (to.tensor(second).elements, 1))
    product = to.reshaped(_product(call, first, second), call.shape)
    if call.get("alpha") != 1:
        product = to.binary("mul", product, Number(call.get("alpha")))
    if call.get("beta") == 0:
        return product
    added = to.cast(call.id("self"), call.type)
    if call.get("beta") != 1:
        added = to.binary("mul", added, Number(call.get("beta")))
    return to.binary("add", product, added)


def _affine(call: Call, shape: Sequence[int], type: Element) -> List[int]:
    """Weight and bias. A norm on the device has both or none: one that is missing is a constant
    (poptorch source/popart_canonicalization/NormalizationOps.cpp)."""
    weight, bias = call.maybe_id("weight"), call.maybe_id("bias")
    if weight is None and bias is None:
        return []
    return [
        call.to.fill(value, shape, type) if id is None else call.to.cast(id, type)
        for id, value in ((weight, 1), (bias, 0))
    ]


@rule("native_group_norm")
def _group_norm(call: Call) -> Results:
    x, groups, type = call.id("input"), call.get("group"), call.type
    affine = _affine(call, call.shape[1:2], type)
    statistics = ((call.shape[0], groups), type)
    return call.to.emit_all(
        "group_norm",
        (call.to.cast(x, type), *affine),
        [(call.shape, type), statistics, statistics],
        groups=groups,
        epsilon=call.get("eps"),
        affine=bool(affine),
    )


@rule("native_layer_norm")
def _layer_norm(call: Call) -> Results:
    x, type, axes = call.id("input"), call.type, len(call.get("normalized_shape"))
    affine = _affine(call, call.get("normalized_shape"), type)
    outer = call.shape[: len(call.shape) - axes]
    statistics = ((*outer, *[1] * axes), type)
    return call.to.emit_all(
        "layer_norm",
        (call.to.cast(x, type), *affine),
        [(call.shape, type), statistics, statistics],
        axes=axes,
        epsilon=call.get("eps"),
        affine=bool(affine),
    )


@rule(
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "_batch_norm_with_update", "_batch_norm_no_update", "batch_norm_with_update",
    "cudnn_batch_norm", "miopen_batch_norm", "_native_batch_norm_legit_functional",
)  # fmt: skip
def _batch_norm(call: Call) -> Results:
    """The running statistics that training writes are part of the operation."""
    x, type = call.id("input"), call.type
    training = call.get("training", "train")
    if training is None:
        training = "with_update" in call.name
    affine = _affine(call, call.shape[1:2], type)
    running = [call.maybe_id("running_mean"), call.maybe_id("running_var")]
    kept = [id for id in running if id is not None]
    statistics = (call.shape[1:2], type)
    y, mean, inv_std = call.to.emit_all(
        "batch_norm",
        (call.to.cast(x, type), *affine, *kept),
        [(call.shape, type), statistics, statistics],
        training=bool(training),
        epsilon=call.get("eps", "epsilon"),
        affine=bool(affine),
        running=bool(kept),
    )
    return [y, mean if training else None, inv_std if training else None]


@rule("online_norm")
def _online_norm(call: Call) -> Results:
    """The application's own operation; the streams that it writes are part of it. On hardware it
    would be a custom operator."""
    streams = [call.id(name) for name in ("mean", "variance", "projection", "gradient")]
    return call.to.emit_all(
        "online_norm",
        (call.id("x"), *streams),
        [(call.shape, call.type), *[(call.shape[:2], Element.FLOAT)] * 3],
        decay=call.get("decay"),
        backward_decay=call.get("backward_decay"),
        epsilon=call.get("epsilon"),
    )


def _pooling(call: Call, rank: int) -> Tuple[Tuple[int, ...], Tuple[int, ...], Pairs]:
    """Kernel, stride and padding that give the result's size, so that rounding the size up needs
    no attribute: it is padding at the end."""
    sizes = call.shape_of(call.id("self"))[-rank:]
    kernel = _per_dim(call.get("kernel_size"), rank)
    stride = _per_dim(call.get("stride") or kernel, rank)
    dilation = _per_dim(call.get("dilation") or 1, rank)
    before = _per_dim(call.get("padding"), rank)
    pairs = []
    for place, result in enumerate(call.shape[-rank:]):
        window = dilation[place] * (kernel[place] - 1) + 1
        reach = (result - 1) * stride[place] + window
        pairs.append((before[place], max(before[place], reach - sizes[place] - before[place])))
    return kernel, stride, tuple(pairs)


@rule("max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
      "max_pool1d", "max_pool2d", "max_pool3d")  # fmt: skip
def _max_pool(call: Call) -> Results:
    x = call.id("self")
    rank = int(call.name[len("max_pool")])
    kernel, stride, padding = _pooling(call, rank)
    attributes = {"kernel": kernel, "stride": stride, "padding": padding}
    dilation = _per_dim(call.get("dilation") or 1, rank)
    if set(dilation) != {1}:
        attributes["dilation"] = dilation
    results = [(call.shape, call.type)] + [(call.shape, Element.INT32)] * (len(call.results) - 1)
    return call.to.emit_all("max_pool", (x,), results, **attributes)


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def _avg_pool(call: Call) -> Results:
    kernel, stride, padding = _pooling(call, int(call.name[len("avg_pool")]))
    return call.emit("avg_pool", (call.id("self"),), kernel=kernel, stride=stride, padding=padding)


@rule("_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def _adaptive_pool(call: Call) -> Results:
    """Windows of one size at one stride, the largest that fit as torch's do on average."""
    x = call.id("self")
    rank = int(call.name[-2])
    before, after = call.shape_of(x)[-rank:], call.shape[-rank:]
    if before == after:
        y = x
    elif all(size <= result for size, result in zip(before, after)):
        y = call.emit("resize", (x,), mode="nearest")
    else:
        stride = tuple(max(1, size // result) for size, result in zip(before, after))
        kernel = tuple(
            max(1, size - (result - 1) * step) for size, result, step in zip(before, after, stride)
        )
        kind = "max_pool" if "max" in call.name else "avg_pool"
        padding = ((0, 0),) * rank
        y = call.emit(kind, (x,), kernel=kernel, stride=stride, padding=padding)
    return [y, *[None] * (len(call.results) - 1)]


@rule(*(f"upsample_{name}" for name in ("nearest1d", "nearest2d", "nearest3d", "linear1d",
                                        "bilinear2d", "trilinear3d", "bicubic2d")),
      "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa")  # fmt: skip
def _resize(call: Call) -> Results:
    mode = next(mode for mode in ("nearest", "linear", "cubic") if mode in call.name)
    return call.emit("resize", (call.id("self", "input"),), mode=mode)


@rule("nll_loss_forward", "nll_loss2d_forward", "nll_loss", "nll_loss2d", "nll_loss_nd")
def _nll_loss(call: Call) -> Results:
    if call.get("weight") is not None:
        raise call.refuse("with class weights, which PopTorch does not have")
    attributes = {"reduction": ("none", "mean", "sum")[call.get("reduction")]}
    y = call.emit(
        "nll_loss",
        (call.id("self"), call.id("target")),
        **attributes,
        ignore_index=call.get("ignore_index"),
    )
    return [y, *[None] * (len(call.results) - 1)]
