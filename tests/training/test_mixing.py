"""Mixup and CutMix: laws of the draws, what the device makes of them, and runs that mix."""

import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from app.config.schema import Mixing, Run
from app.errors import ConfigError
from app.nets import build_net
from app.sdk import poptorch
from app.simulate import simulate_run, trace_run
from app.training.mixing import Box, Mixer, MixingDraws, MixingStream
from app.training.placement import training_options
from app.training.samples import training_samples
from datasets import StoredSplit, StreamSampler, TrainingStream, open_dataset
from tests.training.tiny_run import (
    NO_NOISE,
    SAMPLES_PER_CALL,
    assert_same_bits,
    final_checkpoint,
    records,
    tiny_run,
    train,
)

Floats = NDArray[np.float64]

NO_CUTMIX = [0.5125, 0.435, 0.435, 0.3575, 0.28]
"""Chance of no CutMix at the paper's settings, those of B1 to B5."""
SHARE_KEPT = [0.8872, 0.8693, 0.8693, 0.8514, 0.8334]
"""Mean share of an image's own pixels at them: chance + (1 - chance)·0.76866."""
CUTMIX_LAMBDA = [0.95, 0.90, 0.90, 0.85, 0.80]

MIXED = ["mixing={mixup_alpha: 0.4, cutmix_lambda: 0.62}"]
"""Overrides of a run that leaves few images as they are."""


def draws(mixing: Mixing, seed: int = 0, size: int = 32, micro_batch: int = 4) -> MixingDraws:
    return MixingDraws(mixing, seed, size, micro_batch)


# ---- laws of the draws


def assert_distributed(values: Floats, cdf: Callable[[Floats], Floats]) -> None:
    """Kolmogorov and Smirnov's test at a level of 1 in 1,000."""
    x = np.sort(values)
    below = np.arange(len(x)) / len(x)
    resolved = x < 1 - 1e-12  # of beta laws a part lies nearer to 1 than floating point tells
    above = np.abs(cdf(x) - below - 1 / len(x))[resolved].max()
    distance = max(above, np.abs(cdf(x) - below)[resolved].max())
    assert distance * math.sqrt(len(x)) < 1.95, distance


def folded_beta_cdf(alpha: float) -> Callable[[Floats], Floats]:
    """Of max(x, 1 - x), x ~ Beta(alpha, alpha): 1 - 2·I(1 - m), by the power series of I."""
    scale = math.exp(math.lgamma(2 * alpha) - 2 * math.lgamma(alpha))

    def cdf(m: Floats) -> Floats:
        x = 1 - m
        series, factor = np.zeros_like(x), np.ones_like(x)
        for k in range(80):
            series += factor / (alpha + k)
            factor = factor * x * (1 + k - alpha) / (k + 1)
        return np.asarray(1 - 2 * scale * x**alpha * series)

    return cdf


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.5])
def test_coefficients_are_beta_folded_at_one_half(alpha: float) -> None:
    source = draws(Mixing(mixup_alpha=alpha), seed=3)
    assert_distributed(
        np.array([source.coefficient(sample) for sample in range(20_000)]), folded_beta_cdf(alpha)
    )


def test_the_test_tells_neighbouring_beta_laws_apart() -> None:
    source = draws(Mixing(mixup_alpha=0.1), seed=3)
    values = np.array([source.coefficient(sample) for sample in range(20_000)])
    with pytest.raises(AssertionError):
        assert_distributed(values, folded_beta_cdf(0.11))


@pytest.mark.parametrize("alpha", [1e-3, 0.1, 1.0, 1e3])
def test_coefficients_of_any_alpha_lie_between_one_half_and_one(alpha: float) -> None:
    source = draws(Mixing(mixup_alpha=alpha))
    values = [source.coefficient(sample) for sample in range(2000)]
    assert 0.5 <= min(values) < max(values) <= 1


def test_coefficients_of_samples_in_order_are_uncorrelated() -> None:
    source = draws(Mixing(mixup_alpha=1.0), seed=1)
    values = np.array([source.coefficient(sample) for sample in range(20_000)])
    values = (values - values.mean()) / values.std()
    for lag in range(1, 5):
        assert abs((values[lag:] * values[:-lag]).mean()) * math.sqrt(len(values)) < 4


FINE = 10**7
"""Image size at which rounding to pixels hides nothing."""
COUNT = 20_000
BOXES: Dict[float, List[Box]] = {}


def boxes(cutmix_lambda: float) -> List[Box]:
    if cutmix_lambda not in BOXES:
        source = draws(Mixing(cutmix_lambda=cutmix_lambda), seed=5, size=FINE)
        BOXES[cutmix_lambda] = [source.box(number) for number in range(COUNT)]
    return BOXES[cutmix_lambda]


def kept(box: Box) -> float:
    return 1 - (box.bottom - box.top) * (box.right - box.left) / FINE**2


@pytest.mark.parametrize(
    ("cutmix_lambda", "chance", "share"), list(zip(CUTMIX_LAMBDA, NO_CUTMIX, SHARE_KEPT))
)
def test_chance_of_no_cutmix_and_mean_share_kept_are_the_papers(
    cutmix_lambda: float, chance: float, share: float
) -> None:
    shares = np.array([kept(box) for box in boxes(cutmix_lambda)])
    error = math.sqrt(chance * (1 - chance) / COUNT)
    assert float((shares == 1).mean()) == pytest.approx(chance, abs=3 * error)
    assert shares.mean() == pytest.approx(share, abs=3 * shares.std() / math.sqrt(COUNT))


def test_share_kept_has_the_exponential_density() -> None:
    shares = np.array([kept(box) for box in boxes(0.62) if box.bottom > box.top])
    assert_distributed(shares, lambda x: np.expm1(4 * x) / math.expm1(4))
    assert shares.mean() == pytest.approx(0.76866, abs=3 * shares.std() / math.sqrt(len(shares)))
    assert np.median(shares) == pytest.approx(0.83125, abs=0.005)


def test_centre_is_uniform_where_the_box_fits_and_moved_inward_elsewhere() -> None:
    """It is moved to an edge where it is nearer than half a side: chance side / (2·size)."""
    cut = [box for box in boxes(0.62) if box.bottom > box.top]
    edges = np.array(cut) / FINE
    inner = []
    for start, end in (edges[:, :2].T, edges[:, 2:].T):
        side = end - start
        for at_edge in (start == 0, end == 1):
            expected, variance = (side / 2).sum(), (side / 2 * (1 - side / 2)).sum()
            assert abs(at_edge.sum() - expected) < 3.5 * math.sqrt(variance)
        inside = (start > 0) & (end < 1)
        assert_distributed((start / (1 - side))[inside], lambda x: x)
        inner.append(start / (1 - side))
    assert abs(np.corrcoef(*inner)[0, 1]) * math.sqrt(len(cut)) < 4  # rows and columns


@given(size=st.integers(1, 600), seed=st.integers(0, 2**63 - 1), number=st.integers(0, 10**9))
@settings(deadline=None, derandomize=True)
def test_a_box_is_square_but_for_rounding_and_lies_in_the_image(
    size: int, seed: int, number: int
) -> None:
    box = draws(Mixing(cutmix_lambda=0.62), seed=seed, size=size).box(number)
    assert 0 <= box.top <= box.bottom <= size and 0 <= box.left <= box.right <= size
    assert abs((box.bottom - box.top) - (box.right - box.left)) <= 1


def test_draws_never_change_silently() -> None:
    source = draws(Mixing(mixup_alpha=0.2, cutmix_lambda=0.62), seed=11, size=224)
    found = [source.of_sample(sample) for sample in (0, 5, 8, 10**9)]
    expected = [
        [0.9682922704544505, 47, 147, 20, 120],
        [0.8567710462057482, 109, 171, 162, 224],
        [0.9840699173915806, 0, 175, 14, 189],
        [0.9999986286093843, 83, 125, 0, 42],
    ]
    assert torch.equal(torch.stack(found), torch.tensor(expected))


def test_what_is_off_is_drawn_as_nothing() -> None:
    assert draws(Mixing(cutmix_lambda=0.62)).of_sample(3)[0] == 1
    assert draws(Mixing(mixup_alpha=1.0)).of_sample(3)[1:].tolist() == [0, 0, 0, 0]


# ---- the stream


PER_EPOCH, EPOCHS = 12, 3


def stream(seed: int = 0, micro_batch: int = 4) -> MixingStream:
    images = torch.arange(13 * 4, dtype=torch.uint8).reshape(13, 1, 2, 2)
    items = TrainingStream(StoredSplit(images, torch.arange(13), 2), seed, PER_EPOCH, EPOCHS)
    mixing = Mixing(mixup_alpha=0.4, cutmix_lambda=0.62)
    return MixingStream(items, draws(mixing, seed, size=64, micro_batch=micro_batch))


def batches(items: MixingStream, start: int, workers: int) -> List[List[Tensor]]:
    sampler = StreamSampler(start, len(items))
    return [list(b) for b in DataLoader(items, 4, sampler=sampler, num_workers=workers)]


def same(ours: List[List[Tensor]], theirs: List[List[Tensor]]) -> bool:
    return len(ours) == len(theirs) and all(
        torch.equal(a, b) for mine, other in zip(ours, theirs) for a, b in zip(mine, other)
    )


def test_a_sample_keeps_its_image_and_label_and_gets_five_numbers() -> None:
    items = stream()
    assert len(items) == PER_EPOCH * EPOCHS
    image, label, mixing = items[7]
    expected_image, expected_label = items._stream[7]
    assert torch.equal(image, expected_image) and label == expected_label
    assert (mixing.dtype, mixing.shape) == (torch.float32, (5,))


def test_a_box_is_that_of_all_samples_of_a_micro_batch_and_of_no_other() -> None:
    source = draws(Mixing(mixup_alpha=0.4, cutmix_lambda=0.62), size=10**6, micro_batch=3)
    found = [[tuple(source.of_sample(3 * k + i)[1:].tolist()) for i in range(3)] for k in range(60)]
    assert all(len(set(boxes)) == 1 for boxes in found)
    cut = [boxes[0] for boxes in found if boxes[0] != (0, 0, 0, 0)]
    assert len(set(cut)) == len(cut) > 50
    own = {float(source.of_sample(sample)[0]) for sample in range(180) if sample % 3}
    assert len(own) > 100  # coefficients are each sample's own


@given(start=st.integers(0, PER_EPOCH * EPOCHS))
@settings(deadline=None, derandomize=True, max_examples=20)
def test_restart_at_any_sample_continues_with_the_same_mixing(start: int) -> None:
    whole, restarted = stream(), stream()
    for sample in range(start, len(whole)):
        assert torch.equal(whole[sample][2], restarted[sample][2])


def test_workers_change_no_mixing() -> None:
    assert same(batches(stream(), 8, workers=2), batches(stream(), 8, workers=0))


def test_seeds_mix_differently() -> None:
    assert not torch.equal(stream(seed=0)[5][2], stream(seed=1)[5][2])


def test_stream_survives_the_way_to_another_process() -> None:
    copy = pickle.loads(pickle.dumps(stream()))
    assert torch.equal(copy[30][2], stream()[30][2])


class Spread(nn.Module):
    """How far apart the boxes in a micro-batch are, and the first of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor, labels: Tensor, mixing: Tensor) -> Tuple[Tensor, ...]:
        loss = poptorch.identity_loss(self.weight * mixing[:, 0].sum(), reduction="sum")
        boxes = mixing[:, 1:]
        return loss, (boxes.amax(0) - boxes.amin(0)).sum(), boxes[:1]


def test_a_micro_batch_on_the_device_is_one_of_the_streams() -> None:
    flags = ["batching.micro_batch=2", "batching.replicas=2", "batching.device_iterations=2"]
    run = tiny_run(*MIXED, *flags, "pipeline.splits=[]", "data.image_size=32", "data.num_images=48")
    samples = training_samples(run, open_dataset(run.data, 0).train, 48)
    options = training_options(run)
    options.outputMode(poptorch.OutputMode.All)
    loader = poptorch.DataLoader(options, samples, 2, sampler=StreamSampler(0, len(samples)))  # type: ignore[arg-type]
    module = Spread()
    executor: Any = poptorch.trainingModel(
        module, options, poptorch.optim.SGD(module.parameters(), lr=0.1)
    )
    found = []
    for batch in loader:
        _, spread, boxes = executor(*batch)
        assert spread.tolist() == [0.0] * 12  # 2 iterations x 3 accumulated x 2 replicas
        found += boxes.tolist()
    executor.destroy()
    assert len({tuple(box) for box in found}) > 40


# ---- the device


def partners(count: int) -> int:
    return 2 if count > 2 else 1


def mixed_by_hand(images: Tensor, mixing: Tensor, method: Mixing) -> Tensor:
    """Mixup, then CutMix on what it made, pixel by pixel."""
    count, size = len(images), images.shape[-1]
    own = mixing[:, 0] if method.mixup_alpha else torch.ones(count)
    once = [own[i] * images[i] + (1 - own[i]) * images[i - 1] for i in range(count)]
    twice = [image.clone() for image in once]
    top, bottom, left, right = (int(n) for n in mixing[0, 1:])
    if method.cutmix_lambda is not None:
        for i, row, column in np.ndindex(count, size, size):
            if top <= row < bottom and left <= column < right:
                twice[i][:, row, column] = once[i - partners(count)][:, row, column]
    return torch.stack(twice)


BOTH = Mixing(mixup_alpha=0.4, cutmix_lambda=0.62)
METHODS = [BOTH, Mixing(mixup_alpha=0.4), Mixing(cutmix_lambda=0.62)]


@st.composite
def mixings(draw: Any) -> Tuple[int, Tensor]:
    """An image size and the mixing of a micro-batch of 2 to 5 images."""
    size, count = draw(st.integers(1, 7)), draw(st.integers(2, 5))
    edges = st.lists(st.integers(0, size), min_size=2, max_size=2).map(sorted)
    box = [float(edge) for edge in draw(edges) + draw(edges)]
    own = [draw(st.floats(0.5, 1, width=32)) for _ in range(count)]
    return size, torch.tensor([[m, *box] for m in own])


@pytest.mark.parametrize("method", METHODS, ids=["both", "mixup", "cutmix"])
@given(drawn=mixings())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_images_are_mixed_up_with_the_last_and_cut_with_the_last_but_one(
    method: Mixing, drawn: Tuple[int, Tensor]
) -> None:
    size, mixing = drawn
    images = torch.randn(len(mixing), 2, size, size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        Mixer(method, size)(images, mixing), mixed_by_hand(images, mixing, method)
    )


@pytest.mark.parametrize("method", METHODS, ids=["both", "mixup", "cutmix"])
@given(drawn=mixings())
@settings(deadline=None, derandomize=True, max_examples=40)
def test_shares_of_labels_are_those_of_pixels(method: Mixing, drawn: Tuple[int, Tensor]) -> None:
    """Image i is 1 in channel i, so that a mixed image's mean is the share of every image in it."""
    size, mixing = drawn
    count = len(mixing)
    images = torch.eye(count).reshape(count, count, 1, 1).expand(-1, -1, size, size)
    mixer = Mixer(method, size)
    labels, shares = mixer.labels(torch.arange(count), mixing)
    assert labels.shape == shares.shape == (count, 4 if method == BOTH else 2)
    assert shares.dtype == torch.float32 and bool((shares >= 0).all())
    torch.testing.assert_close(shares.sum(1), torch.ones(count), rtol=0, atol=3e-7)
    summed = torch.zeros(count, count).scatter_add(1, labels, shares)
    torch.testing.assert_close(mixer(images, mixing).mean((2, 3)), summed)


def test_four_labels_with_the_weights_of_the_paper() -> None:
    """m·k, (1 - m)·k, m'·(1 - k) and (1 - m')·(1 - k); m' is the CutMix partner's coefficient."""
    m, k = [0.6, 0.7, 0.8, 0.9], 1 - 2 * 3 / 16
    mixing = torch.tensor([[own, 1, 3, 0, 3] for own in m])
    labels, shares = Mixer(BOTH, 4).labels(torch.tensor([10, 11, 12, 13]), mixing)
    assert labels.tolist() == [
        [10, 13, 12, 11],
        [11, 10, 13, 12],
        [12, 11, 10, 13],
        [13, 12, 11, 10],
    ]
    expected = [
        [m[i] * k, (1 - m[i]) * k, m[i - 2] * (1 - k), (1 - m[i - 2]) * (1 - k)] for i in range(4)
    ]
    torch.testing.assert_close(shares, torch.tensor(expected))


def test_of_two_images_each_is_the_others_partner_twice() -> None:
    mixing = torch.tensor([[0.75, 0, 1, 0, 2], [0.5, 0, 1, 0, 2]])
    labels, shares = Mixer(BOTH, 2).labels(torch.tensor([4, 7]), mixing)
    assert labels.tolist() == [[4, 7, 7, 4], [7, 4, 4, 7]]
    assert shares.tolist() == [[0.375, 0.125, 0.25, 0.25], [0.25, 0.25, 0.375, 0.125]]


def test_a_box_of_all_pixels_exchanges_images_and_labels() -> None:
    images = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    mixing = torch.tensor([[1.0, 0, 4, 0, 4]]).expand(3, -1)
    mixer = Mixer(BOTH, 4)
    assert torch.equal(mixer(images, mixing), images[[1, 2, 0]])
    labels, shares = mixer.labels(torch.arange(3), mixing)
    assert (labels * shares).sum(1).tolist() == [1, 2, 0]


def test_half_images_stay_half_and_labels_keep_float32_shares() -> None:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mixing = torch.tensor([[own, 2, 7, 1, 6] for own in (0.6, 0.71, 0.83, 0.9)])
    mixer = Mixer(BOTH, 8).half()
    found = mixer(images.half(), mixing)
    assert found.dtype == torch.float16
    torch.testing.assert_close(
        found.float(), mixed_by_hand(images, mixing, BOTH), rtol=2e-3, atol=4e-3
    )
    assert torch.equal(
        mixer.labels(torch.arange(4), mixing)[1],
        Mixer(BOTH, 8).labels(torch.arange(4), mixing)[1],
    )


def test_one_image_has_no_partner() -> None:
    with pytest.raises(ValueError, match=r"^mixing takes two images or more$"):
        Mixer(BOTH, 4)(torch.zeros(1, 3, 4, 4), torch.tensor([[0.5, 0, 1, 0, 1]]))


# ---- runs


def labels_on_average(run: Run, micro_batch: int, samples: int) -> Tuple[Tensor, Tensor, Tensor]:
    """An epoch's images after mixing, their own labels, and their soft labels, by plain loops."""
    split = open_dataset(run.data, run.seed).train
    stream = TrainingStream(split, run.seed, samples, 1, run.augmentation)
    source = MixingDraws(run.mixing, run.seed, run.data.image_size, micro_batch)
    every_image, every_label, every_target = [], [], []
    for first in range(0, samples, micro_batch):
        members = range(first, first + micro_batch)
        images = torch.stack([stream[n][0] for n in members]) / 255
        labels = torch.stack([stream[n][1] for n in members])
        mixing = torch.stack([source.of_sample(n) for n in members])
        target = torch.full((micro_batch, 5), 0.1 / 4)
        target[torch.arange(micro_batch), labels] = 0.9
        every_image.append(mixed_by_hand((images - 0.5) / 0.25, mixing, run.mixing))
        every_label.append(labels)
        own = mixing[:, :1]
        target = own * target + (1 - own) * target.roll(1, 0)
        top, bottom, left, right = mixing[0, 1:].tolist()
        cut = (bottom - top) * (right - left) / run.data.image_size**2
        target = (1 - cut) * target + cut * target.roll(partners(micro_batch), 0)
        every_target.append(target)
    return torch.cat(every_image), torch.cat(every_label), torch.cat(every_target)


@pytest.mark.parametrize("micro_batch", [4, 2])
def test_loss_is_that_of_soft_labels_and_accuracy_that_of_the_images_own(
    tmp_path: Path, micro_batch: int
) -> None:
    still = [*NO_NOISE, "optimizer.learning_rate=1e-30", "training.epochs=1", "data.num_images=60"]
    cut = [f"batching.micro_batch={micro_batch}", "pipeline.splits=[]"]
    cut += [f"batching.gradient_accumulation={SAMPLES_PER_CALL // micro_batch}"]
    train(tmp_path, *still, *cut, *MIXED)
    run = tiny_run(*still, *cut, *MIXED)
    images, labels, target = labels_on_average(run, micro_batch, 60)
    net = build_net(run.model, 5)
    net.load_state_dict(final_checkpoint(tmp_path).model)  # they have not moved
    with torch.no_grad():
        logits = net(images)
    record = records(tmp_path, "train")[0]
    loss = -(target * logits.log_softmax(1)).sum(1).mean()
    assert record["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert record["accuracy"] == float((logits.argmax(1) == labels).sum()) / 60


def test_validation_and_test_see_no_mixing(tmp_path: Path) -> None:
    still = ["optimizer.learning_rate=1e-30", "training.epochs=1"]
    for name, overrides in (("mixed", MIXED), ("plain", [])):
        train(tmp_path / name, *still, *overrides)
    one, other = (records(tmp_path / name) for name in ("mixed", "plain"))
    assert [r["phase"] for r in one] == ["train", "validation", "test"]
    assert one[0]["loss"] != other[0]["loss"]
    assert one[1:] == other[1:]


class Interrupted(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.long
def test_an_interrupted_run_that_mixes_ends_with_the_bits_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*MIXED, "data.loader=sync", "training.epochs=3"]
    train(tmp_path / "whole", *flags)
    of_sample = MixingDraws.of_sample

    def interrupted(self: MixingDraws, sample: int) -> Tensor:
        if sample == 80:
            raise Interrupted
        return of_sample(self, sample)

    with monkeypatch.context() as patch:
        patch.setattr(MixingDraws, "of_sample", interrupted)
        with pytest.raises(Interrupted):
            train(tmp_path / "resumed", *flags)
    assert final_checkpoint(tmp_path / "resumed").epoch == 2
    train(tmp_path / "resumed", *flags, "data.workers=1")
    whole, resumed = (final_checkpoint(tmp_path / name) for name in ("whole", "resumed"))
    assert_same_bits({**vars(resumed), "config": ""}, {**vars(whole), "config": ""})
    assert records(tmp_path / "whole") == records(tmp_path / "resumed")
    assert len({record["loss"] for record in records(tmp_path / "whole", "train")}) == 3


def test_a_run_that_does_not_mix_has_samples_of_image_and_label() -> None:
    run = tiny_run()
    samples: Any = training_samples(run, open_dataset(run.data, 0).train, 36)
    assert len(samples[0]) == 2


# ---- simulated


@pytest.mark.parametrize(("method", "copies"), list(zip(METHODS, (2, 1, 1))))
def test_the_simulated_program_mixes(method: Mixing, copies: int) -> None:
    run = replace(tiny_run(), mixing=method)
    plain, mixed = trace_run(tiny_run(), 4), trace_run(run, 4)
    shapes = [mixed.tensors[id].shape for id in mixed.inputs]
    assert shapes == [(4, 3, 8, 8), (4,), (4, 5)]
    assert len(plain.inputs) == 2
    rolled = [op for op in mixed.ops if op.scope == "mixer" and op.function == "roll"]
    assert len(rolled) == copies
    assert {op.stage for op in rolled} == {0}
    assert any(op.kind == "select" for op in mixed.ops) == (method.cutmix_lambda is not None)


def test_mixing_costs_time_and_fits_in_the_simulation() -> None:
    plain, mixed = simulate_run(tiny_run()), simulate_run(tiny_run(*MIXED))
    assert mixed.fits
    assert mixed.step_time_s > plain.step_time_s
    assert mixed.per_ipu[0].cycles_per_micro_batch > plain.per_ipu[0].cycles_per_micro_batch


def test_inference_is_simulated_without_mixing() -> None:
    mixed, plain = (trace_run(run, 4, "inference") for run in (tiny_run(*MIXED), tiny_run()))
    assert [op.label for op in mixed.ops] == [op.label for op in plain.ops]
    assert len(mixed.inputs) == len(plain.inputs) == 2


def test_a_micro_batch_of_one_is_refused_with_its_reason() -> None:
    with pytest.raises(ConfigError, match=r"^batching\.micro_batch: .* \(mixing takes two images"):
        trace_run(tiny_run(*MIXED), 1)
