"""AutoAugment, RandAugment and random erasing as functions of a seed."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from app.config.schema import Augmentation, Data
from datasets.policies import Policy, autoaugment_policy

AUTOAUGMENT = Augmentation(policy="autoaugment")
RANDAUGMENT = Augmentation(policy="randaugment")
POLICIES = pytest.mark.parametrize("augmentation", [AUTOAUGMENT, RANDAUGMENT])
SEEDS = range(40)


def image(channels: int = 3, size: int = 16) -> Tensor:
    """Smooth, and nowhere black."""
    ramp = torch.linspace(20, 240, size)
    pixels = torch.stack(
        [ramp.expand(size, -1), ramp.expand(size, -1).T, ramp.flip(0).expand(size, -1)]
    )
    return pixels[:channels].to(torch.uint8).contiguous()


@POLICIES
@pytest.mark.parametrize("channels", [1, 3])
def test_policies_change_most_images_and_keep_their_type_and_shape(
    augmentation: Augmentation, channels: int
) -> None:
    policy, original = Policy(augmentation, "imagenet"), image(channels)
    results = [policy(original, seed) for seed in SEEDS]
    assert all(r.dtype == torch.uint8 and r.shape == original.shape for r in results)
    assert sum(not torch.equal(r, original) for r in results) > len(SEEDS) / 2
    assert len({r.numpy().tobytes() for r in results}) > 10
    assert torch.equal(original, image(channels))


@POLICIES
def test_a_seed_decides_everything_and_torchs_own_draws_go_on_as_before(
    augmentation: Augmentation,
) -> None:
    policy, again = Policy(augmentation, "imagenet"), Policy(augmentation, "imagenet")
    torch.manual_seed(11)
    torch.rand(3)
    state = torch.get_rng_state()
    first = [policy(image(), seed) for seed in (5, 2**64 - 1)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(100)
    assert all(torch.equal(a, again(image(), s)) for a, s in zip(first, (5, 2**64 - 1)))


def test_torchs_own_draws_go_on_as_before_after_a_failure() -> None:
    state = torch.get_rng_state()
    with pytest.raises(TypeError):
        Policy(RANDAUGMENT, "imagenet")(torch.zeros(3, 4, 4), 1)  # no whole numbers
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("cifar10", "cifar10"),
        ("cifar100", "cifar10"),
        ("imagenet", "imagenet"),
        ("digits", "imagenet"),
    ],
)
def test_photographs_as_small_as_cifars_have_their_own_policy(name: Any, policy: str) -> None:
    assert autoaugment_policy(Data(name=name, image_size=8)) == policy


def test_the_two_policies_differ() -> None:
    imagenet, cifar = (Policy(AUTOAUGMENT, name) for name in ("imagenet", "cifar10"))
    assert any(not torch.equal(imagenet(image(), s), cifar(image(), s)) for s in SEEDS)


def test_no_operations_and_more_of_them_change_less_and_more() -> None:
    def distance(**settings: int) -> float:
        policy = Policy(Augmentation(policy="randaugment", **settings), "imagenet")
        moved = [(policy(image(), seed).float() - image()).abs().mean() for seed in SEEDS]
        return float(np.mean([float(m) for m in moved]))

    weak, usual = distance(randaugment_magnitude=3), distance(randaugment_magnitude=9)
    assert weak < usual < distance(randaugment_magnitude=30)
    assert distance(randaugment_operations=1) < usual < distance(randaugment_operations=4)


def test_a_share_of_the_images_has_a_black_rectangle() -> None:
    """1000 draws of probability 0.3: standard deviation 14.5."""
    policy, original, erased = Policy(Augmentation(random_erasing=0.3), "imagenet"), image(), 0
    for seed in range(1000):
        black = (policy(original, seed) == 0).all(0)
        rows, columns = black.any(1), black.any(0)
        assert bool((black == rows.unsqueeze(1) & columns).all())
        assert torch.equal(policy(original, seed)[:, ~black], original[:, ~black])
        erased += bool(black.any())
    assert abs(erased - 300) < 4 * 14.5


def test_erased_areas_are_those_of_the_paper() -> None:
    """Areas of 2 to 33 percent with sides rounded to whole pixels, of 64 x 64."""
    policy, white = (
        Policy(Augmentation(random_erasing=1.0), "imagenet"),
        torch.full((3, 64, 64), 255),
    )
    shares = [float((policy(white.byte(), s) == 0).float().mean()) for s in range(300)]
    assert 0.015 < min(shares) < 0.05 and 0.28 < max(shares) < 0.34


def test_erasing_comes_last() -> None:
    both = Policy(Augmentation(policy="randaugment", random_erasing=1.0), "imagenet")
    alone = Policy(RANDAUGMENT, "imagenet")
    for seed in SEEDS:
        result, distorted = both(image(), seed), alone(image(), seed)
        changed = (result != distorted).any(0)
        assert not result[:, changed].any()
        # What is black in both may be of the rectangle as well.
        rows, columns = changed.any(1), changed.any(0)
        assert not result[:, rows.unsqueeze(1) & columns].any()
