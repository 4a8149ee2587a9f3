"""Public checkpoints: timm's and torchvision's EfficientNets, torchvision's ResNets."""

import re
from typing import Dict, List, Mapping

from torch import Tensor, nn

from app.errors import CheckpointError

_STEM_AND_HEAD = {
    "features.0.0": "conv_stem",
    "features.0.1": "bn1",
    "features.8.0": "conv_head",
    "features.8.1": "bn2",
    "classifier.1": "classifier",
}
_FIRST_STAGE = {  # its units do not expand
    "0.0": "conv_dw",
    "0.1": "bn1",
    "1.fc1": "se.conv_reduce",
    "1.fc2": "se.conv_expand",
    "2.0": "conv_pw",
    "2.1": "bn2",
}
_OTHER_STAGES = {
    "0.0": "conv_pw",
    "0.1": "bn1",
    "1.0": "conv_dw",
    "1.1": "bn2",
    "2.fc1": "se.conv_reduce",
    "2.fc2": "se.conv_expand",
    "3.0": "conv_pwl",
    "3.1": "bn3",
}


def translate_torchvision(state: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """torchvision's EfficientNet state (``features.*``) under the names used here, timm's.

    Raises ``CheckpointError`` at a name that torchvision's EfficientNet does not have.
    """
    return {_translate(name): tensor for name, tensor in state.items()}


def _translate(name: str) -> str:
    module, _, leaf = name.rpartition(".")
    if module in _STEM_AND_HEAD:
        return f"{_STEM_AND_HEAD[module]}.{leaf}"
    unit = re.fullmatch(r"features\.([1-7])\.(\d+)\.block\.(\d\.\w+)", module)
    if unit:
        stage = int(unit[1]) - 1
        layers = _OTHER_STAGES if stage else _FIRST_STAGE
        if unit[3] in layers:
            return f"blocks.{stage}.{unit[2]}.{layers[unit[3]]}.{leaf}"
    raise CheckpointError(f"{name}: not a name of torchvision's EfficientNet")


def load_pretrained(net: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads every parameter and running statistic of ``net`` from a public checkpoint.

    Raises ``CheckpointError``, changing nothing, if names or shapes differ.
    """
    if any(name.startswith("features.") for name in state):
        state = translate_torchvision(state)
    own = net.state_dict()
    counters = {name for name in own if name.endswith("num_batches_tracked")}
    problems = [
        *_listed("lacks", sorted(own.keys() - state.keys() - counters)),
        *_listed("has, but the network lacks,", sorted(state.keys() - own.keys())),
        *_listed(
            "has in another shape",
            [
                f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
                for name in own.keys() & state.keys()
                if state[name].shape != own[name].shape
            ],
        ),
    ]
    if problems:
        raise CheckpointError(
            f"checkpoint: does not fit {type(net).__name__}: it {'; it '.join(problems)}; "
            "build the network with the model, norm and number of classes of the checkpoint"
        )
    net.load_state_dict({**own, **state})


def _listed(what: str, names: List[str], most: int = 3) -> List[str]:
    if not names:
        return []
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return [f"{what} {', '.join(names[:most])}{rest}"]
