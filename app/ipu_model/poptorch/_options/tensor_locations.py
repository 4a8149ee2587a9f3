"""``poptorch.TensorLocationSettings`` and ``Options.TensorLocations``: where tensors are kept.

On-chip memory, streaming memory or sharded over replicas: hardware stores the same numbers.

Source: graphcore/poptorch, python/options.py (SDK 3.4).
"""

from typing import List, Optional

from app.ipu_model.poptorch._options.base import OptionsDict

_IO_TILES = "numIOTiles must be an even number between 32 and 192."


class TensorLocationSettings(OptionsDict):
    """Where one kind of tensor is kept.

    Raises:
        AssertionError: a count that is not an int, or a choice that is not a bool.
    """

    def minElementsForOffChip(self, min_elements: int) -> "TensorLocationSettings":
        """Keep tensors with fewer elements on the chip."""
        self.createOrSet(minElementsForOffChip=_count(min_elements))
        return self

    def minElementsForReplicatedTensorSharding(self, min_elements: int) -> "TensorLocationSettings":
        """Do not shard tensors with fewer elements over replicas."""
        self.createOrSet(minElementsForReplicatedTensorSharding=_count(min_elements))
        return self

    def useOnChipStorage(self, use: Optional[bool] = True) -> "TensorLocationSettings":
        """Keep tensors on the chip (True), in streaming memory (False), or undecided (None)."""
        if use is None:
            self.deleteIfExists("onChip")
        else:
            self.createOrSet(onChip=_choice(use))
        return self

    def useReplicatedTensorSharding(self, use: bool = True) -> "TensorLocationSettings":
        """Keep a part of each weight or optimiser state on each replica."""
        self.createOrSet(useReplicatedTensorSharding=_choice(use))
        return self

    def useIOTilesToLoad(self, use: bool = True) -> "TensorLocationSettings":
        """Load tensors through I/O tiles rather than compute tiles."""
        self.createOrSet(useIOTilesToLoad=_choice(use))
        return self

    def useIOTilesToStore(self, use: bool = True) -> "TensorLocationSettings":
        """Store sharded tensors on I/O tiles rather than compute tiles."""
        self.createOrSet(useIOTilesToStore=_choice(use))
        return self


class _TensorLocationOptions(OptionsDict):
    """Where activations, weights, optimiser states and accumulators are kept."""

    def numIOTiles(self, num_tiles: int) -> "_TensorLocationOptions":
        """Tiles of each IPU that transfer rather than compute: even, 32 to 192."""
        assert isinstance(num_tiles, int), f"numIOTiles must be an int, got {num_tiles!r}"
        assert 32 <= num_tiles <= 192, _IO_TILES
        assert num_tiles % 2 == 0, _IO_TILES
        self.createOrSet(numIOTiles=num_tiles)
        return self

    def setActivationLocation(self, location: TensorLocationSettings) -> "_TensorLocationOptions":
        """Where activations are kept between the forward and the backward pass."""
        return self._set_location("location_activation", location)

    def setWeightLocation(self, location: TensorLocationSettings) -> "_TensorLocationOptions":
        """Where weights are kept."""
        return self._set_location("location_weight", location)

    def setOptimizerLocation(self, location: TensorLocationSettings) -> "_TensorLocationOptions":
        """Where optimiser states are kept."""
        return self._set_location("location_optimizer", location)

    def setAccumulatorLocation(self, location: TensorLocationSettings) -> "_TensorLocationOptions":
        """Where gradient accumulators are kept."""
        return self._set_location("location_accumulator", location)

    def _set_location(
        self, option: str, location: TensorLocationSettings
    ) -> "_TensorLocationOptions":
        assert isinstance(location, TensorLocationSettings), (
            f"{option} must be a poptorch.TensorLocationSettings, got {type(location)}"
        )
        self.createOrSet(**{option: location.toDict()})
        return self

    def _lines(self) -> List[str]:
        return [f"{line}  # hardware only" for line in super()._lines()]


def _count(value: int) -> int:
    assert isinstance(value, int), f"a number of elements must be an int, got {value!r}"
    return value


def _choice(value: bool) -> int:
    assert isinstance(value, bool), f"a location is chosen with a bool, got {value!r}"
    return int(value)
