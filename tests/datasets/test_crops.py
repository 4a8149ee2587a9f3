"""Random crops: their areas, aspects and places, and what they cover."""

from typing import List, Optional, Tuple

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.config.schema import Augmentation
from datasets.crops import WHOLE, Box, Shares, random_box
from datasets.draws import Draws, random_bits

PAPERS = Augmentation(resized_crop=True)

EDGES = st.lists(st.integers(0, 1000), min_size=2, max_size=2, unique=True).map(sorted)
SHARES = st.tuples(EDGES, EDGES).map(
    lambda e: (e[0][0] / 1000, e[1][0] / 1000, e[0][1] / 1000, e[1][1] / 1000)
)


def boxes(
    height: int,
    width: int,
    count: int,
    wanted: Augmentation,
    annotated: Optional[Tuple[Shares, ...]] = (WHOLE,),
) -> List[Box]:
    return [
        random_box(height, width, annotated, wanted, Draws(random_bits(3, sample)))
        for sample in range(count)
    ]


def is_uniform(values: NDArray[np.float64], low: float, high: float) -> bool:
    """Kolmogorov and Smirnov's test, at which one in a thousand of uniform samples fails."""
    shares = np.sort((values - low) / (high - low))
    steps = np.arange(len(values) + 1) / len(values)
    distance = max((steps[1:] - shares).max(), (shares - steps[:-1]).max())
    return bool(distance < 1.95 / len(values) ** 0.5)


def test_aspects_are_uniform_and_so_are_heights_where_the_area_allows() -> None:
    """In a large square, where rounding is no matter: with aspect a, the area's share is a·h² for
    the height's share h, so h lies between sqrt(0.05 / a) and 1 or, for wide crops, 1 / a."""
    side = 20_000
    found = boxes(side, side, 3000, PAPERS, None)
    heights = np.array([box.height for box in found]) / side
    aspects = np.array([box.width / box.height for box in found])
    assert is_uniform(aspects, *PAPERS.crop_aspect)
    lowest, highest = np.sqrt(0.05 / aspects), np.minimum(1, 1 / aspects)
    assert is_uniform((heights - lowest) / (highest - lowest), 0, 1)


def test_places_are_uniform_whatever_the_size() -> None:
    found = boxes(20_000, 30_000, 3000, PAPERS, None)
    assert is_uniform(np.array([b.top / (20_001 - b.height) for b in found]), 0, 1)
    assert is_uniform(np.array([b.left / (30_001 - b.width) for b in found]), 0, 1)


def test_every_place_of_a_small_crop_is_taken_about_equally_often() -> None:
    quarter = Augmentation(resized_crop=True, crop_area=(0.25, 0.25), crop_aspect=(1.0, 1.0))
    found = boxes(4, 4, 3600, quarter, None)
    assert {(box.height, box.width) for box in found} == {(2, 2)}
    counts = np.bincount([3 * box.top + box.left for box in found], minlength=9)
    # 3600 draws of probability 1/9: mean 400, standard deviation 18.9.
    assert abs(counts - 400).max() < 4 * 18.9


def test_an_image_without_boxes_is_the_box_so_that_no_crop_shows_less_than_a_tenth() -> None:
    areas = [box.height * box.width / (375 * 500) for box in boxes(375, 500, 1000, PAPERS)]
    assert 0.1 <= min(areas) < 0.12 and max(areas) > 0.9


def test_where_nothing_is_annotated_the_wanted_area_is_all_that_counts() -> None:
    areas = [b.height * b.width / (375 * 500) for b in boxes(375, 500, 1000, PAPERS, None)]
    assert 0.05 <= min(areas) < 0.06 and max(areas) > 0.9
    small = Augmentation(resized_crop=True, crop_area=(0.02, 0.08))
    areas = [b.height * b.width / (375 * 500) for b in boxes(375, 500, 1000, small, None)]
    assert min(areas) >= 0.02 and max(areas) <= 0.08


@settings(deadline=None)
@given(
    st.integers(1, 300), st.integers(1, 300), st.lists(SHARES, min_size=1, max_size=4), st.data()
)
def test_crops_lie_in_the_image_have_the_wanted_shape_and_cover_a_box_or_are_the_whole_image(
    height: int, width: int, annotated: List[Shares], data: st.DataObject
) -> None:
    coverage = data.draw(st.floats(0, 1))
    wanted = Augmentation(resized_crop=True, bounding_boxes="boxes.csv", box_coverage=coverage)
    box = random_box(height, width, annotated, wanted, Draws(data.draw(st.integers(0, 2**64 - 1))))
    if box == Box(0, 0, height, width):
        return
    bottom, right = box.top + box.height, box.left + box.width
    assert box.top >= 0 and box.left >= 0 and bottom <= height and right <= width
    assert 0.05 <= box.height * box.width / (height * width) <= 1
    # The width is rounded to whole pixels.
    assert 0.75 * box.height - 0.5 <= box.width <= 4 / 3 * box.height + 0.5
    assert max(covered(box, height, width, s) for s in annotated) >= wanted.box_coverage - 1e-9


def covered(box: Box, height: int, width: int, shares: Shares) -> float:
    """Share of the annotated rectangle that the box holds, on the scale of shares."""
    left, top, right, bottom = shares
    across = min((box.left + box.width) / width, right) - max(box.left / width, left)
    down = min((box.top + box.height) / height, bottom) - max(box.top / height, top)
    return max(across, 0) * max(down, 0) / ((right - left) * (bottom - top))


def test_crops_of_a_boxed_image_keep_to_its_box() -> None:
    corner = (0.9, 0.9, 1.0, 1.0)
    found = boxes(300, 400, 500, PAPERS, (corner,))
    assert all(covered(box, 300, 400, corner) >= 0.1 for box in found)
    assert len(set(found)) > 450
    elsewhere = boxes(300, 400, 500, PAPERS)
    assert sum(covered(box, 300, 400, corner) >= 0.1 for box in elsewhere) < 200


def test_where_no_crop_covers_enough_the_whole_image_is_taken() -> None:
    small = Augmentation(resized_crop=True, crop_area=(0.05, 0.05))
    assert set(boxes(300, 400, 20, small)) == {Box(0, 0, 300, 400)}


def test_where_whole_pixels_allow_no_crop_the_whole_image_is_taken() -> None:
    assert set(boxes(1, 100, 20, PAPERS)) == {Box(0, 0, 1, 100)}


def test_crops_never_change_silently() -> None:
    assert [tuple(box) for box in boxes(375, 500, 4, PAPERS)] == [
        (0, 57, 360, 443),
        (3, 17, 300, 341),
        (112, 153, 197, 158),
        (116, 61, 156, 196),
    ]
