"""Public implementations with random weights, and their networks' counterparts here."""

import torch
from torch import nn

from app.config.schema import Model, Norm
from app.nets import build_net, load_pretrained


def randomise(net: nn.Module) -> nn.Module:
    """Gives a network on the meta device random weights and running statistics on the CPU, such
    that activations stay of order one."""
    net.to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if tensor.dim() > 1:
            tensor.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("num_batches_tracked"):
            tensor.zero_()
        else:
            tensor.normal_(0, 0.1, generator=generator)
    return net


def counterpart(reference: nn.Module, model: Model, num_classes: int = 10) -> nn.Module:
    """Our network for ``model``, with the weights of ``reference``, in evaluation mode."""
    with torch.device("meta"):
        net = build_net(model, num_classes)
    net.to_empty(device="cpu").eval()
    load_pretrained(net, reference.state_dict())
    return net


def batch_norm_of(reference: nn.Module) -> Norm:
    """Batch norm with the epsilon of the reference's."""
    epsilon = next(m.eps for m in reference.modules() if isinstance(m, nn.BatchNorm2d))
    return Norm(kind="batch", epsilon=epsilon)


def assert_same_logits(net: nn.Module, reference: nn.Module, image_size: int) -> None:
    images = torch.randn(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, found = reference(images), net(images)
    assert 0.05 < expected.std() < 50  # neither vanished nor exploded
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
