"""Sizes, canonical form, gradients and transforms of convolutions."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.ipu_model.cost.convolution import (
    ConvParams,
    DataType,
    Pass,
    canonical,
    conv_params,
    data_gradient,
    macs,
    weight_gradient,
)
from app.ipu_model.cost.convolution.transforms import swap_operands, transformed_candidates


@st.composite
def layers(draw: st.DrawFn) -> ConvParams:
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    return conv_params(
        batch=draw(st.integers(1, 3)),
        in_channels=draw(st.integers(1, 5)),
        out_channels=draw(st.integers(1, 5)),
        field=[size + draw(st.integers(0, 8)) for size in kernel],
        kernel=kernel,
        groups=draw(st.integers(1, 3)),
        stride=[draw(st.integers(1, 3)) for _ in range(2)],
        padding=[
            (draw(st.integers(0, size - 1)), draw(st.integers(0, size - 1))) for size in kernel
        ],
    )


def counted_macs(params: ConvParams) -> int:
    """Products with a real input element, one by one."""
    total = params.batch * params.groups * params.in_channels * params.out_channels
    for dim in range(params.dims):
        hits = 0
        for output in range(params.output_size(dim)):
            for tap in range(params.kernel[dim]):
                at = output * params.stride[dim] + tap * params.kernel_dilation[dim]
                at += params.kernel_padding[dim][0] - params.padding[dim][0]
                element, rest = divmod(at, params.input_dilation[dim])
                hits += rest == 0 and 0 <= element < params.field[dim]
        total *= hits
    return total


def test_output_size_of_a_strided_padded_convolution() -> None:
    params = conv_params(4, 3, 64, (224, 224), (7, 7), stride=2, padding=[(3, 3), (3, 3)])
    assert params.output == ((224 + 6 - 7) // 2 + 1,) * 2 == (112, 112)


def test_pointwise_convolution_does_one_mac_per_weight_and_pixel() -> None:
    batch, c_in, c_out, height, width = 4, 16, 96, 28, 28
    params = conv_params(batch, c_in, c_out, (height, width), (1, 1))
    assert macs(params) == batch * height * width * c_in * c_out


def test_padding_is_not_multiplied() -> None:
    params = conv_params(1, 1, 1, (3, 3), (3, 3), padding=[(1, 1), (1, 1)])
    # Along one dim the three outputs meet 2, 3 and 2 real elements.
    assert macs(params) == (2 + 3 + 2) ** 2


@given(layers())
@settings(max_examples=80, deadline=None)
def test_all_three_passes_do_the_same_products(params: ConvParams) -> None:
    assert macs(params) == counted_macs(params)
    passes = (canonical(params), data_gradient(params), weight_gradient(params))
    for convolution in passes:
        assert macs(convolution) == counted_macs(convolution) == macs(params)


@given(layers())
@settings(max_examples=60, deadline=None)
def test_canonical_form_is_final(params: ConvParams) -> None:
    for convolution in (params, data_gradient(params), weight_gradient(params)):
        assert canonical(canonical(convolution)) == canonical(convolution)


@given(layers())
@settings(max_examples=60, deadline=None)
def test_gradients_have_the_shapes_of_what_they_belong_to(params: ConvParams) -> None:
    forward = canonical(params)
    assert forward.output == params.output
    assert data_gradient(params).output == forward.field
    assert weight_gradient(params).output == forward.kernel


@given(layers())
@settings(max_examples=60, deadline=None)
def test_every_transform_keeps_the_products(params: ConvParams) -> None:
    for start in (params, data_gradient(params), weight_gradient(params)):
        for found in transformed_candidates(start, DataType.HALF, Pass.TRAINING_FWD):
            changed = found.params
            if found.transform.combine_groups == 1:
                outputs = changed.batch * changed.out_channels * changed.output[0]
                outputs *= changed.output[1]
                assert outputs * changed.groups % params.groups == 0
                # Expansion also multiplies the padding that it copies.
                assert macs(changed) >= macs(params)


@given(layers())
@settings(max_examples=60, deadline=None)
def test_swapping_operands_keeps_outputs_and_products(params: ConvParams) -> None:
    forward = canonical(params)
    swapped = swap_operands(forward)
    assert swapped.output == forward.output
    assert macs(swapped) == macs(forward)


def test_strided_pointwise_data_gradient_defers_its_dilation() -> None:
    forward = conv_params(4, 256, 128, (56, 56), (1, 1), stride=2)
    candidates = list(transformed_candidates(data_gradient(forward), DataType.HALF, Pass.MATMUL))
    assert {found.transform.deferred_dilation for found in candidates} == {(0, 1)}
    assert all(max(found.params.input_dilation) == 1 for found in candidates)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch": 0}, "batch must be at least 1"), ({"field": (2, 2)}, "smaller than the kernel")],
)
def test_impossible_convolutions_are_refused(change: "dict[str, object]", message: str) -> None:
    arguments = {"batch": 1, "in_channels": 1, "out_channels": 1, "field": (8, 8), **change}
    with pytest.raises(ValueError, match=message):
        conv_params(kernel=(3, 3), **arguments)  # type: ignore[arg-type]
