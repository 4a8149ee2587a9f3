"""How long a run is."""

from app.config.schema import Run
from app.errors import ConfigError


class RunLength:
    """A run in numbers of samples, calls and weight updates; epochs hold whole calls only.

    Raises:
        ConfigError: the dataset is smaller than what one call consumes.
    """

    def __init__(self, run: Run, images: int) -> None:
        self.samples_per_call = run.batching.samples_per_call
        self.calls_per_epoch = images // self.samples_per_call
        if not self.calls_per_epoch:
            raise ConfigError(
                f"batching: one call takes {self.samples_per_call} images, {run.data.name} has "
                f"{images} to train on; lower micro_batch, gradient_accumulation or replicas"
            )
        self.samples_per_epoch = self.calls_per_epoch * self.samples_per_call
        self.steps_per_epoch = self.calls_per_epoch * run.batching.device_iterations
        self.epochs = run.training.epochs
        self.samples = self.samples_per_epoch * self.epochs
        self.steps = self.steps_per_epoch * self.epochs
