"""Pictures: parts of images, and images as tests see them."""

from io import BytesIO
from typing import Any, List

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import functional as F_vision
from torchvision.transforms.functional import pil_to_tensor

from app.errors import DatasetError
from datasets import decoding, pictures
from datasets.crops import Box, centre_box, resized_sides
from datasets.decoding import SCALES, decode, read_header
from datasets.notes import SKIPPED, Note, UnreadableImageError
from datasets.pictures import (
    EncodedPicture,
    PixelPicture,
    channels_first,
    channels_last,
    prepare,
    resize,
)


def noise(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> EncodedPicture:
    return EncodedPicture(content(image, kind, **options), "shelf/picture")


def content(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def ramp(height: int, width: int) -> Image.Image:
    """From black at the left edge to white at the right edge, the same in every channel."""
    levels = (np.arange(width) + 0.5) / width * 255
    return channels_last(torch.from_numpy(levels.round().astype(np.uint8)).expand(3, height, -1))


# ---- as tests see them


@settings(deadline=None, max_examples=60)
@given(
    st.integers(3, 90), st.integers(3, 90), st.integers(1, 40), st.sampled_from([1.0, 0.875, 0.6])
)
def test_an_encoded_test_image_is_torchvisions_resize_and_centre_crop_bit_for_bit(
    height: int, width: int, size: int, test_crop: float
) -> None:
    image = channels_last(noise(3, height, width))
    reference = transforms.Compose(
        [transforms.Resize(int(size / test_crop + 1e-6)), transforms.CenterCrop(size)]
    )
    found = encoded(image).prepared(size, test_crop)
    assert torch.equal(found, channels_first(reference(image)))


@settings(deadline=None, max_examples=30)
@given(st.integers(3, 60), st.integers(3, 60), st.integers(2, 40))
def test_a_stored_test_image_is_the_encoded_one_but_for_rounding(
    height: int, width: int, size: int
) -> None:
    pixels = noise(3, height, width)
    stored = prepare(pixels.unsqueeze(0), size, 0.875).squeeze(0)
    from_file = encoded(channels_last(pixels)).prepared(size, 0.875)
    assert stored.shape == from_file.shape == (3, size, size)
    # Pillow rounds between rows and columns as well.
    assert int((stored.int() - from_file.int()).abs().max()) <= 1


@pytest.mark.parametrize(
    ("size", "short"), [(224, 256), (160, 182), (240, 274), (256, 292), (300, 342), (456, 521)]
)
def test_the_short_side_of_imagenets_tests_is_the_papers(size: int, short: int) -> None:
    assert short == int(size * 256 / 224)
    assert resized_sides(1000, 700, size, 0.875) == (int(short * 1000 / 700), short)
    assert resized_sides(700, 1000, size, 0.875) == (short, int(short * 1000 / 700))


def test_a_quotient_that_is_whole_stays_whole() -> None:
    assert resized_sides(64, 64, 63, 0.7) == (90, 90)  # 63 / 0.7 is 90 less 1e-14 in floats


def test_a_test_crop_of_one_only_resizes_square_images() -> None:
    images = noise(2, 3, 12, 12)
    assert torch.equal(prepare(images, 5, 1.0), resize(images, 5, 5))
    assert prepare(images, 12, 1.0).data_ptr() == images.data_ptr()


def test_the_centre_is_in_the_middle() -> None:
    assert centre_box(256, 341, 224) == Box(16, 58, 224, 224)


# ---- parts


def test_a_part_of_stored_pixels_has_no_others() -> None:
    pixels = noise(3, 20, 30)
    picture = PixelPicture(pixels)
    assert (picture.height, picture.width) == (20, 30)
    assert torch.equal(picture.part(Box(4, 7, 9, 9), 9), pixels[:, 4:13, 7:16])
    cut = pixels[None, :, 4:14, 7:12]
    assert torch.equal(picture.part(Box(4, 7, 10, 5), 6), resize(cut, 6, 6)[0])


def test_a_part_of_an_encoded_image_at_its_own_size_is_not_resampled() -> None:
    pixels = noise(3, 20, 30)
    picture = encoded(channels_last(pixels))
    assert (picture.height, picture.width) == (20, 30)
    assert torch.equal(picture.part(Box(4, 7, 9, 9), 9), pixels[:, 4:13, 7:16])


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(16, 300), st.integers(16, 300))
def test_a_part_lies_where_it_was_asked_for_at_any_scale_of_decoding(
    data: Any, height: int, width: int
) -> None:
    """On a ramp, pixel i of a part shows the level at the middle of its share of the box."""
    columns, rows = data.draw(st.integers(8, width)), data.draw(st.integers(8, height))
    left, top = data.draw(st.integers(0, width - columns)), data.draw(st.integers(0, height - rows))
    size = data.draw(st.integers(4, 24))
    part = encoded(ramp(height, width), "JPEG", quality=100).part(
        Box(top, left, rows, columns), size
    )
    middles = left + (torch.arange(size) + 0.5) * columns / size
    # Near the part's edges bilinear weights are cut off, by at most half their reach.
    inside = torch.arange(size) > 0
    inside[-1] = False
    reach = columns / size
    expected = (middles / width * 255).expand(3, size, size)
    error = (part - expected).abs()[:, :, inside]
    assert part.shape == (3, size, size)
    # half a pixel of the part, and a level of rounding in the ramp, JPEG and the resizing each
    assert bool((error <= 3 + max(1, 0.5 * reach) * 255 / width).all())


def test_jpeg_is_decoded_at_the_smallest_scale_that_is_fine_enough(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = []

    def recorded(*arguments: Any) -> Any:
        pixels, kinds = decode(*arguments)
        shapes.append(pixels.shape[:2])
        return pixels, kinds

    monkeypatch.setattr(pictures, "decode", recorded)
    picture = encoded(ramp(375, 500), "JPEG")
    for size in (188, 187, 93, 46, 3):
        picture.part(Box(0, 0, 375, 500), size)
    picture.part(Box(0, 0, 187, 250), 100)
    picture.prepared(32, 1.0)
    assert shapes == [
        (375, 500),  # 2 x 188 > 375
        (188, 250),
        (94, 125),
        (47, 63),
        (47, 63),  # the least
        (375, 500),  # half the image: 2 x 100 > 187
        (375, 500),  # tests see the image itself
    ]


@settings(deadline=None, max_examples=40)
@given(st.data(), st.integers(8, 200), st.integers(8, 200), st.sampled_from([0, 1, 2]))
def test_a_training_part_is_torchvisions_crop_and_resize_on_pillow_to_a_level(
    data: Any, height: int, width: int, subsampling: int
) -> None:
    columns, rows = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    left, top = data.draw(st.integers(0, width - columns)), data.draw(st.integers(0, height - rows))
    size = 1 + min(rows, columns) // 2 + data.draw(st.integers(0, 20))  # no scaled decoding
    coarse = channels_last(noise(3, 6, 7)).resize((width, height), Image.Resampling.BICUBIC)
    file = content(coarse, "JPEG", quality=90, subsampling=subsampling)
    whole = Image.open(BytesIO(file))
    expected = F_vision.resized_crop(whole, top, left, rows, columns, [size, size])
    found = EncodedPicture(file, "a.jpg").part(Box(top, left, rows, columns), size)
    assert int((found.int() - pil_to_tensor(expected).int()).abs().max()) <= 1


@pytest.mark.parametrize("divisor", SCALES)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_fast_decoder_gives_pillows_pixels_bit_for_bit(mode: str, divisor: int) -> None:
    coarse = channels_last(noise(3, 12, 10)).resize((157, 201), Image.Resampling.BICUBIC)
    file = content(coarse.convert(mode), "JPEG", quality=90)
    header = read_header(file)
    assert header.plain
    pixels, kinds = decode(file, header, divisor)
    slow, _ = decode(file, header._replace(plain=False), divisor)
    assert kinds == () and pixels.shape == (-(-201 // divisor), -(-157 // divisor), 3)
    assert np.array_equal(pixels, slow)


@settings(deadline=None, max_examples=150)
@given(st.data(), st.sampled_from(["JPEG", "PNG"]))
def test_no_damage_raises_anything_but_what_the_stream_can_skip(data: Any, kind: str) -> None:
    whole = bytearray(content(channels_last(noise(3, 24, 24)), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    del whole[data.draw(st.integers(1, len(whole))) :]
    notes: List[Note] = []
    try:
        pixels = EncodedPicture(bytes(whole), "a.jpg", notes.append).part(Box(0, 0, 4, 4), 3)
    except UnreadableImageError:
        assert notes[-1].kind in SKIPPED
    else:
        assert pixels.shape == (3, 3, 3)


def test_a_header_that_promises_gigabytes_is_refused_before_they_are_taken() -> None:
    whole = bytearray(content(channels_last(noise(3, 16, 16)), "JPEG"))
    size = whole.index(b"\xff\xc0") + 5
    whole[size : size + 4] = b"\xff\x00\xff\x00"
    with pytest.raises(UnreadableImageError, match="promises 65280 x 65280 pixels"):
        EncodedPicture(bytes(whole), "a.jpg")


def test_resize_is_bilinear_and_anti_aliased_rounded_to_the_nearest_level() -> None:
    images = noise(7, 3, 12, 10)
    expected = F.interpolate(images.float(), size=(5, 4), mode="bilinear", antialias=True)
    assert torch.equal(resize(images, 5, 4), expected.round().to(torch.uint8))


def test_halving_a_constant_image_keeps_its_level() -> None:
    assert bool((resize(torch.full((1, 1, 8, 8), 255, dtype=torch.uint8), 4, 4) == 255).all())


def test_resizing_in_chunks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(7, 1, 6, 6)
    whole = resize(images, 9, 9)
    monkeypatch.setattr(pictures, "_RESIZE_CHUNK", 3)
    assert torch.equal(resize(images, 9, 9), whole)


# ---- formats


@pytest.mark.parametrize("channels", [1, 3])
def test_pillows_images_and_ours_hold_the_same_pixels(channels: int) -> None:
    pixels = noise(channels, 5, 7)
    assert torch.equal(channels_first(channels_last(pixels)), pixels)
    assert channels_last(pixels).size == (7, 5)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("CMYK", "JPEG"), ("1", "PNG")],
)
def test_every_kind_of_image_has_three_channels(mode: str, kind: str) -> None:
    white = Image.new("RGB", (20, 12), (255, 255, 255)).convert(mode)
    picture = encoded(white, kind)
    for pixels in (picture.part(Box(0, 0, 12, 12), 6), picture.prepared(6, 0.875)):
        assert pixels.shape == (3, 6, 6) and pixels.dtype == torch.uint8
        assert int(pixels.min()) >= 253


DEEP = np.array([[0, 255, 256], [0x1234, 0x8000, 0xFFFF]], np.uint16)


def test_the_upper_8_of_16_grey_bits_are_taken() -> None:
    notes: List[Note] = []
    picture = EncodedPicture(content(Image.fromarray(DEEP), "PNG"), "a.png", notes.append)
    pixels = picture._decoded(1)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([DEEP >> 8] * 3, axis=-1))
    assert [note.sentence for note in notes] == [
        "a.png: is greyscale, taken as RGB",
        "a.png: has 16 bits a channel, of which the upper 8 are taken",
    ]


def test_grey_of_16_bits_is_scaled_too_where_pillow_opens_it_as_32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stored = content(Image.fromarray(DEEP), "PNG")
    header = read_header(stored)
    image = Image.fromarray(DEEP.astype(np.int32))
    assert image.mode == "I"
    monkeypatch.setattr(decoding, "_opened", lambda _: image)
    assert np.array_equal(decode(stored, header)[0][..., 0], DEEP >> 8)


def test_a_rotation_noted_beside_the_pixels_is_left_alone() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    picture = encoded(ramp(10, 20), "JPEG", exif=exif.tobytes())
    assert (picture.height, picture.width) == (10, 20)


def test_content_that_is_no_image_is_refused_by_name() -> None:
    with pytest.raises(DatasetError) as refusal:
        EncodedPicture(b"no image", "train/n01/a.JPEG")
    assert str(refusal.value) == (
        "train/n01/a.JPEG: is neither JPEG nor PNG; replace the image, or take it out"
    )


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_content_that_is_cut_short_is_refused_by_name(kind: str) -> None:
    whole = content(channels_last(noise(3, 64, 64)), kind)
    picture = EncodedPicture(whole[: len(whole) // 2], "train/n01/a.JPEG")
    for ask in (lambda: picture.part(Box(0, 0, 64, 64), 8), lambda: picture.prepared(8, 1.0)):
        with pytest.raises(DatasetError, match=r"^train/n01/a.JPEG: cannot be decoded, .*; repl"):
            ask()
