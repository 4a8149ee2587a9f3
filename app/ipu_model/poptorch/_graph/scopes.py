"""Context managers around operations: names, attributes and combined convolutions.

They change no numbers. Source: graphcore/poptorch, python/ops.py, python/options.py (SDK 3.4).
"""

import copy
from typing import Any, ClassVar, Dict, List, Optional, Sequence, Union

import torch

from app.ipu_model.poptorch._graph.device_operations import annotate
from app.ipu_model.poptorch.enums import MultiConvPlanType


class NameScope:
    """The operations of the body have names with this prefix.

    Args:
        name: the prefix.

    Raises:
        AssertionError: no string.
    """

    def __init__(self, name: str) -> None:
        assert isinstance(name, str), "Parameter to NameScope must be a string"
        self.name = name

    def __enter__(self) -> None:
        annotate("push_name_scope", name=self.name)

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        annotate("pop_name_scope")


class Attribute:
    """The operations of the body carry attributes for the compiler.

    Args:
        kwargs: for each attribute, a dictionary of keys and values.
    """

    _current_attrs: ClassVar[Dict[str, Dict[str, str]]] = {}

    def __init__(self, **kwargs: Dict[str, str]) -> None:
        self._kwargs = kwargs
        self._saved: Dict[str, Dict[str, str]] = {}

    def __enter__(self) -> None:
        self._saved = Attribute._current_attrs
        current = copy.deepcopy(self._saved)
        for attribute, values in self._kwargs.items():
            current.setdefault(attribute, {}).update(values)
            for key, value in values.items():
                annotate("set_attribute", attribute=attribute, key=key, value=value)
        Attribute._current_attrs = current

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        for attribute, values in self._kwargs.items():
            saved = self._saved.get(attribute, {})
            for key in values:
                if key in saved:
                    annotate("set_attribute", attribute=attribute, key=key, value=saved[key])
                else:
                    annotate("clear_attribute", attribute=attribute, key=key)
        Attribute._current_attrs = self._saved


class MultiConv:
    """The convolutions of the body, which must not depend on each other, run as one.

    A setter takes one value for all convolutions, or a list or tuple with one for each.
    """

    def __init__(self) -> None:
        self._available_memory_proportions: Optional[Sequence[float]] = None
        self._partials_types: Optional[Sequence[int]] = None
        self._plan_type: Optional[MultiConvPlanType] = None
        self._per_conv_reserved_tiles: Optional[int] = None
        self._cycle_back_off: Optional[float] = None
        self._enable_conv_ditherings: Optional[Sequence[bool]] = None

    def availableMemoryProportions(
        self, value: Optional[Union[float, Sequence[float]]]
    ) -> "MultiConv":
        """Share of tile memory for each convolution's temporaries.

        Raises:
            AssertionError: other types.
        """
        if isinstance(value, float):
            value = (value,)
        if value is not None and not (
            isinstance(value, (list, tuple)) and value and all(isinstance(v, float) for v in value)
        ):
            raise AssertionError("Invalid available memory proportion!")
        self._available_memory_proportions = value
        return self

    def partialsTypes(self, value: Union[torch.dtype, Sequence[torch.dtype]]) -> "MultiConv":
        """Type of each convolution's partial results.

        Raises:
            ValueError: neither torch.float nor torch.half.
        """
        types: List[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
        codes = {torch.float32: 0, torch.float16: 1}
        if not all(isinstance(t, torch.dtype) and t in codes for t in types):
            raise ValueError("Invalid partials types. Expecting torch.float or torch.half")
        self._partials_types = [codes[t] for t in types]
        return self

    def enableConvDithering(self, value: Optional[Union[bool, Sequence[bool]]]) -> "MultiConv":
        """Whether each convolution starts on another tile.

        Raises:
            ValueError: other types.
        """
        if isinstance(value, bool):
            value = (value,)
        if value is not None and not (
            isinstance(value, (list, tuple)) and all(isinstance(v, bool) for v in value)
        ):
            raise ValueError("value must be bool or list of bools")
        self._enable_conv_ditherings = value
        return self

    def planType(self, value: Optional[MultiConvPlanType]) -> "MultiConv":
        """Run the convolutions side by side or one after the other.

        Raises:
            AssertionError: another type.
        """
        if value is not None and not isinstance(value, MultiConvPlanType):
            raise AssertionError("Invalid plan type!")
        self._plan_type = value
        return self

    def perConvReservedTiles(self, value: int) -> "MultiConv":
        """Tiles each convolution has to itself.

        Raises:
            AssertionError: no integer.
        """
        assert isinstance(value, int)
        self._per_conv_reserved_tiles = value
        return self

    def cycleBackOff(self, value: float) -> "MultiConv":
        """Share of cycles a plan may lose to be smaller.

        Raises:
            AssertionError: no float.
        """
        assert isinstance(value, float)
        self._cycle_back_off = value
        return self

    def __enter__(self) -> None:
        annotate("begin_multi_conv")

    def __exit__(self, type: Any, value: Any, traceback: Any) -> None:
        annotate(
            "end_multi_conv",
            available_memory_proportions=self._available_memory_proportions,
            partials_types=self._partials_types,
            plan_type=None if self._plan_type is None else self._plan_type.value,
            per_conv_reserved_tiles=self._per_conv_reserved_tiles,
            cycle_back_off=self._cycle_back_off,
            enableConvDithering=self._enable_conv_ditherings,
        )
