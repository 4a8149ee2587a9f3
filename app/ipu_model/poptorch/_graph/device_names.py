"""Names of device tensors and attributes of custom operations.

Source: graphcore/poptorch, python/_utils.py (SDK 3.4).
"""

import json
from typing import Any

import torch

from app.ipu_model.poptorch.errors import Error

_PREFIX = "attr:"


def getIpuTensorId(x: torch.Tensor) -> int:
    """A number that names the tensor while ``forward`` is captured.

    Raises:
        Error: no tensor.
    """
    if not isinstance(x, torch.Tensor):
        raise Error(f"getIpuTensorId: expected a torch.Tensor, got {type(x)}")
    return id(x)


def accessAttributes(attribute_id_str: str) -> Any:
    """The attributes of a custom operation, from the text that names them.

    Args:
        attribute_id_str: JSON of the attributes.

    Raises:
        ValueError: no string, or none that names attributes.
        Error: the address of attributes, which only a custom operation could have.
    """
    if not isinstance(attribute_id_str, str):
        raise ValueError("Wrong type for attribute_id_str")
    if attribute_id_str.startswith("{"):
        return json.loads(attribute_id_str)
    if not attribute_id_str.startswith(_PREFIX):
        raise ValueError("Invalid attribute_id_str")
    raise Error(f"accessAttributes: '{attribute_id_str}' is the address of a custom operation's "
                "attributes, which the IPU Model does not have; pass them as JSON.")  # fmt: skip
