"""The backward convolutions of a forward one (poplibs lib/poplin/ConvUtil.cpp, Convolution.cpp)."""

from dataclasses import replace

from app.ipu_model.cost.convolution.params import ConvParams, canonical

__all__ = ["data_gradient", "weight_gradient"]


def data_gradient(forward: ConvParams) -> ConvParams:
    """The convolution that turns output gradients into input gradients.

    The kernel is transposed and flipped beforehand, so no flip remains here. Stride and input
    dilation change places (PopLibs getGradientParams).
    """
    forward = canonical(forward)
    padding = []
    for dim in range(forward.dims):
        span = forward.padded_kernel(dim) - 1
        lower, upper = forward.padding[dim]
        padding.append((span - lower, span - upper))
    return canonical(
        replace(
            forward,
            in_channels=forward.out_channels,
            out_channels=forward.in_channels,
            field=forward.output,
            stride=forward.input_dilation,
            input_dilation=forward.stride,
            padding=tuple(padding),
        )
    )


def weight_gradient(forward: ConvParams) -> ConvParams:
    """The convolution of the input with the output gradients (PopLibs getWeightUpdateParams).

    Input channels become the batch, the batch becomes the reduced channel axis.
    """
    forward = canonical(forward)
    return canonical(
        replace(
            forward,
            batch=forward.in_channels,
            in_channels=forward.batch,
            kernel=forward.output,
            stride=forward.kernel_dilation,
            kernel_dilation=forward.stride,
            kernel_padding=forward.kernel_padding,
        )
    )
