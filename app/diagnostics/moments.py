"""Statistics of a tensor's channels over images and pixels, and where their power lies.

The power of a channel, the mean of its squares, falls into four parts (arXiv 2106.03743, the "power
plots" of figure 2). With m and s the mean and the standard deviation of one image's pixels:

    mean_n(m)²  +  var_n(m)  +  mean_n(s)²  +  var_n(s)

the channel's mean, how the images' means vary, their mean deviation, and how deviations vary. The
last three together are the channel's variance. No torch here.
"""

from dataclasses import dataclass
from typing import Optional, Tuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""One number per channel, [C]."""

NOISE = 1e-6
"""Power of a norm's output, 1 as a rule, up to which it is rounding: instance norm's one pixel,
whose rounding is divided by the root of epsilon, 1e-6 in ResNets."""

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True, eq=False)
class Moments:
    """Of every channel of a tensor, [C] each."""

    mean: Values
    """Mean over images of an image's mean m."""
    mean_variance: Values
    """Variance of m over images."""
    deviation: Values
    """Mean over images of the standard deviation s of an image's pixels."""
    deviation_variance: Values
    """Variance of s over images."""

    @property
    def channels(self) -> int:
        """C."""
        return len(self.mean)

    @property
    def variance(self) -> Values:
        """Of each channel over images and pixels."""
        return self.mean_variance + self.deviation**2 + self.deviation_variance

    @property
    def power(self) -> Values:
        """Mean square of each channel over images and pixels."""
        return self.mean**2 + self.variance

    def without_noise(self) -> "Moments":
        """The same, with zeros in channels that hold nothing but rounding."""
        signal = np.where(self.power > NOISE, 1.0, 0.0)
        return Moments(
            self.mean * signal,
            self.mean_variance * signal,
            self.deviation * signal,
            self.deviation_variance * signal,
        )

    def without_affine(self, scale: Values, shift: Values) -> Optional["Moments"]:
        """Of x, where these are of scale·x + shift, both [C] or one number for all channels.

        Channels whose scale is zero do not tell what x was and are left out; None if all are.
        """
        scale, shift = np.broadcast_arrays(scale, shift, self.mean)[:2]
        told = scale != 0
        if not told.any():
            return None
        scale, shift = scale[told], shift[told]
        return Moments(
            (self.mean[told] - shift) / scale,
            self.mean_variance[told] / scale**2,
            self.deviation[told] / np.abs(scale),
            self.deviation_variance[told] / scale**2,
        )


@dataclass(frozen=True)
class Summary:
    """One tensor's channels in a few numbers. Shares are of the power, from 0 to 1."""

    channels: int
    """Number of channels."""
    power: float
    """Mean over channels of their power."""
    share_of_means: float
    """In the channels' means: 0 normalised in every channel, 1 every channel is a constant."""
    share_of_image_means: float
    """In the variation of images' means."""
    share_of_deviations: float
    """In the images' mean standard deviations."""
    share_of_image_deviations: float
    """In the variation of images' standard deviations."""
    share_of_images: float
    """In both variations together: what tells images apart, and instance norm removes."""
    variance_spread: float
    """Standard deviation of the channels' variances, by their mean; 0 where all are equal."""
    means_quantiles: Tuple[float, ...]
    """10 %, 50 % and 90 % of the channels have at most this share of their power in the mean."""
    images_quantiles: Tuple[float, ...]
    """The same for the share in the variation of images."""
    variance_quantiles: Tuple[float, ...]
    """The same for the variance, by its mean over channels."""


def summarise(moments: Moments) -> Summary:
    """The few numbers. Channels of no more power than ``NOISE`` are zeros, which have no shares."""
    moments = moments.without_noise()
    power, variance = moments.power, moments.variance
    images = moments.mean_variance + moments.deviation_variance
    total = float(power.mean())

    def share(part: Values) -> float:
        return float(part.mean()) / total if total else 0.0

    mean_variance = float(variance.mean())
    return Summary(
        channels=moments.channels,
        power=total,
        share_of_means=share(moments.mean**2),
        share_of_image_means=share(moments.mean_variance),
        share_of_deviations=share(moments.deviation**2),
        share_of_image_deviations=share(moments.deviation_variance),
        share_of_images=share(images),
        variance_spread=float(variance.std()) / mean_variance if mean_variance else 0.0,
        means_quantiles=_quantiles(_ratio(moments.mean**2, power)),
        images_quantiles=_quantiles(_ratio(images, power)),
        variance_quantiles=_quantiles(variance / mean_variance if mean_variance else variance),
    )


def _ratio(part: Values, whole: Values) -> Values:
    """Channel by channel; 0 where the whole is."""
    return np.divide(part, whole, out=np.zeros_like(part), where=whole != 0)


def _quantiles(values: Values) -> Tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES))
