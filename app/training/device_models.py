"""What runs on the device: normalisation of 8-bit images, the network, the loss and the counts."""

from typing import Sequence, Tuple

import torch
from torch import Tensor, nn

from app.config.schema import Run
from app.errors import ConfigError
from app.nets import mixed_cross_entropy, smoothed_cross_entropy
from app.sdk import poptorch
from app.training.freezing import freeze_before
from app.training.mixing import Mixer
from app.training.precision import data_type, set_types


class Normalise(nn.Module):
    """8-bit images [N, C, H, W] to float: (x/255 - mean)/std per channel, in one multiply-add.

    Args:
        mean, std: one value for all channels, or one each.
        channels: C.

    Raises:
        ConfigError: another number of values.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels: int) -> None:
        super().__init__()
        means, stds = _per_channel("mean", mean, channels), _per_channel("std", std, channels)
        self.register_buffer("scale", 1 / (255 * stds), persistent=False)
        self.register_buffer("shift", -means / stds, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.to(self.scale.dtype) * self.scale + self.shift


def _per_channel(name: str, values: Sequence[float], channels: int) -> Tensor:
    """The values of ``data.<name>`` as [1, C, 1, 1]."""
    if len(values) not in (1, channels):
        raise ConfigError(
            f"data.{name}: has {len(values)} values, the images have {channels} "
            f"channel{'s' * (channels > 1)}; give one value for all channels, or one each"
        )
    return torch.tensor(values).expand(channels).reshape(1, -1, 1, 1)


class _Scored(nn.Module):
    """A network with what judges its answers."""

    def __init__(self, net: nn.Module, normalise: Normalise, label_smoothing: float) -> None:
        super().__init__()
        self.normalise = normalise
        self.net = net
        self.label_smoothing = label_smoothing

    def score(self, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        """Loss and correctness (1 or 0) of every image, [N] each, float32."""
        logits = self.net(self.normalise(images))
        losses = smoothed_cross_entropy(logits, labels, self.label_smoothing)
        return losses, _correct(logits, labels)


def _correct(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.argmax(dim=1) == labels).float()


class TrainingModel(_Scored):
    """Images uint8 [N, C, S, S], labels [N] to the mean loss and the count of correct answers.

    ``frozen`` names the modules of the network that stay in evaluation mode.
    """

    frozen: Tuple[str, ...] = ()

    def train(self, mode: bool = True) -> "TrainingModel":
        super().train(mode)
        for name in self.frozen:
            self.net.get_submodule(name).eval()
        return self

    def forward(self, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        losses, correct = self.score(images, labels)
        return poptorch.identity_loss(losses, reduction="mean"), correct.sum()


class MixingTrainingModel(TrainingModel):
    """The same for images that are mixed first, as ``mixing``, float32 [N, 5], says.

    Answers are counted as correct where they name the image's own label.
    """

    def __init__(
        self, net: nn.Module, normalise: Normalise, label_smoothing: float, mixer: Mixer
    ) -> None:
        super().__init__(net, normalise, label_smoothing)
        self.mixer = mixer

    def forward(  # type: ignore[override]  # another program, with an input more
        self, images: Tensor, labels: Tensor, mixing: Tensor
    ) -> Tuple[Tensor, Tensor]:
        logits = self.net(self.mixer(self.normalise(images), mixing))
        mixed, shares = self.mixer.labels(labels, mixing)
        losses = mixed_cross_entropy(logits, mixed, shares, self.label_smoothing)
        correct = _correct(logits, labels).sum()
        return poptorch.identity_loss(losses, reduction="mean"), correct


class EvaluationModel(_Scored):
    """Images and labels to the summed loss and the number of correct answers.

    Negative labels mark padding: they count for neither.
    """

    def forward(self, images: Tensor, labels: Tensor) -> Tuple[Tensor, Tensor]:
        losses, correct = self.score(images, labels.clamp(min=0))
        counted = (labels >= 0).float()
        return (losses * counted).sum(), (correct * counted).sum()


def _normalise(run: Run, channels: int) -> Normalise:
    return Normalise(run.data.mean, run.data.std, channels).to(data_type(run.precision))


def training_model(run: Run, net: nn.Module, channels: int) -> TrainingModel:
    """The network as the run trains it, in training mode; ``channels`` are the images'.

    Raises:
        ConfigError: a setting that does not fit the images.
    """
    normalise = _normalise(run, channels)
    smoothing = run.training.label_smoothing
    if run.mixing.on:
        mixer = Mixer(run.mixing, run.data.image_size)
        model: TrainingModel = MixingTrainingModel(net, normalise, smoothing, mixer)
    else:
        model = TrainingModel(net, normalise, smoothing)
    model.frozen = freeze_before(net, run.model, run.training.trained_from)
    set_types(net, run.precision)  # now that it need not run on plain torch any more
    return model.train()


def evaluation_model(run: Run, net: nn.Module, channels: int) -> EvaluationModel:
    """The network as the run tests it, in evaluation mode; ``channels`` are the images'.

    Raises:
        ConfigError: a setting that does not fit the images.
    """
    set_types(net, run.precision)
    normalise = _normalise(run, channels)
    return EvaluationModel(net, normalise, run.training.label_smoothing).eval()
