"""What is said of datasets without opening them is what opening them finds."""

import pytest

from app.config.schema import Data
from datasets import image_shape, open_dataset


@pytest.mark.parametrize("name", ["digits", "generated", "synthetic"])
def test_the_shape_is_that_of_the_opened_dataset(name: str) -> None:
    data = Data(name=name, image_size=8, num_classes=7, num_images=8)  # type: ignore[arg-type]
    dataset = open_dataset(data, seed=0)
    assert image_shape(data) == (dataset.channels, dataset.num_classes)


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_downloaded_datasets_have_their_published_classes(name: str, classes: int) -> None:
    assert image_shape(Data(name=name, image_size=32)) == (3, classes)  # type: ignore[arg-type]
