from typing import Dict

import pytest
import torch
from torch import Tensor

from app.training.averaging import WeightAverage


def state_dict(value: float, dtype: torch.dtype = torch.float32) -> Dict[str, Tensor]:
    return {
        "weight": torch.full((2, 3), value, dtype=dtype),
        "running_mean": torch.tensor([value], dtype=dtype),
        "num_batches_tracked": torch.tensor(int(value)),
    }


def averaged(decay: float, *values: float) -> WeightAverage:
    average = WeightAverage(decay)
    for value in values:
        average.update(state_dict(value))
    return average


def test_first_of_350_checkpoints_ends_with_weight_2_4e_5() -> None:
    average = averaged(0.97, 1.0, *[0.0] * 349)
    weight = average.state()["weight"]
    assert weight.dtype == torch.float64
    assert weight[0, 0].item() == pytest.approx(0.97**349, rel=1e-12)
    assert weight[0, 0].item() == pytest.approx(2.4e-5, rel=0.01)


def test_checkpoint_of_k_epochs_ago_has_weight_decay_to_the_k_times_the_rest() -> None:
    epochs_ago = 7
    average = averaged(0.97, *[0.0] * 20, 1.0, *[0.0] * epochs_ago)
    expected = (1 - 0.97) * 0.97**epochs_ago
    assert average.state()["weight"][0, 0].item() == pytest.approx(expected, rel=1e-12)


def test_running_statistics_are_averaged_and_counters_are_the_newest() -> None:
    average = averaged(0.5, 2.0, 4.0, 9.0)
    result = average.as_state_dict(state_dict(0.0))
    assert result["running_mean"].item() == 0.5 * (0.5 * 2 + 0.5 * 4) + 0.5 * 9
    assert torch.equal(result["num_batches_tracked"], torch.tensor(9))


def test_first_state_is_copied() -> None:
    first = state_dict(1.0, torch.float64)
    average = WeightAverage(0.97)
    average.update(first)
    for tensor in first.values():
        tensor.zero_()
    assert [tensor.flatten()[0].item() for tensor in average.state().values()] == [1, 1, 1]


def test_average_of_equal_weights_is_the_weight_in_every_dtype() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        state = state_dict(0.1, dtype)
        average = WeightAverage(0.97)
        for _ in range(350):
            average.update(state)
        result = average.as_state_dict(like=state)
        assert {name: tensor.dtype for name, tensor in result.items()} == {
            name: tensor.dtype for name, tensor in state.items()
        }
        tolerance = 1e-14 if dtype == torch.float64 else 0
        assert torch.allclose(result["weight"], state["weight"], rtol=tolerance, atol=0)


def test_decay_zero_keeps_the_last() -> None:
    assert averaged(0.0, 3.0, 0.1).state()["weight"][0, 0].item() == torch.tensor(0.1).item()


def test_restored_average_continues_bit_for_bit() -> None:
    values = [0.1, 0.7, -0.3, 0.9]
    uninterrupted = averaged(0.97, *values)
    stored = averaged(0.97, *values[:2]).state()
    resumed = WeightAverage(0.97)
    resumed.restore(stored)
    for value in values[2:]:
        resumed.update(state_dict(value))
    for name, tensor in uninterrupted.state().items():
        assert torch.equal(resumed.state()[name], tensor)
    assert torch.equal(stored["weight"], averaged(0.97, *values[:2]).state()["weight"])


def test_other_tensors_are_refused_by_name() -> None:
    average = averaged(0.97, 1.0)
    other = {**state_dict(1.0), "weight": torch.zeros(3, 3), "bias": torch.zeros(1)}
    for use in (average.update, average.as_state_dict):
        with pytest.raises(ValueError, match="differ in bias, weight"):
            use(other)


def test_average_of_nothing_has_no_state_dict() -> None:
    with pytest.raises(ValueError, match="differ in"):
        WeightAverage(0.97).as_state_dict(state_dict(1.0))
