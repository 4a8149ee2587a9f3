"""Values that PopART's optimisers refuse.

Source: graphcore/popart, src/sgd.cpp, src/adam.cpp and src/adaptive.cpp (SDK 3.4), which see Adam,
AdamW and LAMB as ``Adam`` and RMSprop as ``Adaptive``.
"""

from typing import AbstractSet, Any, Mapping, Tuple

from app.ipu_model.poptorch.errors import backend_error

_BACKEND_NAMES = {"SGD": "SGD", "RMSprop": "Adaptive"}
_NOT_NEGATIVE = (
    ("weight_decay", "weight decay"),
    ("beta1", "beta1"),
    ("beta2", "beta2"),
    ("alpha", "alpha"),
    ("momentum", "momentum"),
    ("dampening", "dampening"),
    ("max_weight_norm", "max weight norm"),
)


def check_values(
    kind: str, combined: bool, values: Mapping[str, Any], constant: AbstractSet[str]
) -> None:
    """Refuse values of a parameter group.

    Args:
        kind: SGD, Adam, AdamW, RMSprop or LAMB.
        combined: whether SGD keeps one tensor, whose scaling then counts.
        values: the group's.
        constant: names of those that may not change.

    Raises:
        Error: a negative or zero value where PopART takes none; Nesterov with dampening.
    """
    backend = _BACKEND_NAMES.get(kind, "Adam")
    if values["lr"] < 0:
        raise backend_error(
            f"Negative learning rate ({values['lr']}) in {backend}, bailing as this might be a "
            "user error."
        )
    if values["lr"] == 0 and "lr" in constant:
        raise backend_error(
            f"Constant, zero learning rate in {backend}, bailing as this might be a user error."
        )
    betas: Tuple[float, ...] = values.get("betas", ())
    numbers = {**values, **{f"beta{i}": beta for i, beta in enumerate(betas, start=1)}}
    for key, name in _NOT_NEGATIVE:
        if numbers.get(key, 0) < 0:
            raise backend_error(
                f"Negative {name} ({numbers[key]}) in {backend}, bailing as this might be a user "
                "error"
            )
    if values.get("eps", 1) <= 0:
        raise backend_error(f"Non-positive eps ({values['eps']}) in {backend} is not supported")
    if combined and values["velocity_scaling"] <= 0:
        raise backend_error(
            f"Non-positive velocity scaling ({values['velocity_scaling']}) in SGD is not supported"
        )
    if values.get("nesterov") and values["dampening"] > 0:
        raise backend_error(
            f"When enable nesterov momentum, dampening ({values['dampening']}) in SGD shouled be "
            "zero"
        )
