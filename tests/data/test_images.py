"""Crops follow torchvision's rules, and carry every type that is read."""

import io
import math

import chex
import numpy as np
import pytest
from PIL import Image

from longview.data.decoding import decode, encode_png
from longview.data.images import CenterCrop, PadCrop, RandomResizedCrop, Resize
from tests.data.pictures import PHOTO, encoded, jpeg, numbers

NONE = np.zeros(0)


def reference_crop(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """torchvision's and timm's sampling, one image at a time."""
    for _ in range(10):
        area = rng.uniform(0.08, 1.0) * height * width
        ratio = math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1)), h, w
    if width / height < 3 / 4:
        w, h = width, round(width / (3 / 4))
    elif width / height > 4 / 3:
        w, h = round(height * 4 / 3), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


@pytest.mark.parametrize(('height', 'width'), [(375, 500), (500, 333), (60, 480)])
def test_random_crops_follow_the_published_sampling(height, width):
    count = 10_000
    rng = np.random.default_rng(height)
    crop = RandomResizedCrop()
    got = np.array([crop.box(height, width, draws) for draws in rng.random((count, 23))])
    want = np.array([reference_crop(rng, height, width) for _ in range(count)])
    top, left, h, w = got.T
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + h <= height).all() and (left + w <= width).all()
    for k in range(4):
        values = np.union1d(got[:, k], want[:, k])
        below = [np.searchsorted(np.sort(x[:, k]), values, side='right') / count for x in (got, want)]
        # Kolmogorov-Smirnov, p < 1e-4.
        assert np.abs(below[0] - below[1]).max() < 2.23 * math.sqrt(2 / count), 'top left height width'.split()[k]
    sizes = [(x[:, 2] * x[:, 3]).mean() for x in (got, want)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)


@pytest.mark.parametrize(
    ('height', 'width', 'want'),
    [(20, 100, (0, 36, 20, 27)), (100, 20, (36, 0, 27, 20)), (20, 25, (0, 0, 20, 25))],
)
def test_without_a_fit_the_crop_is_central(height, width, want):
    # The largest area at the extreme ratio: w = 51 or h = 51 never fits into these.
    crop = RandomResizedCrop(area=(2.0, 2.0))
    assert crop.box(height, width, np.full(23, 0.999)) == want


@pytest.mark.parametrize('flip', [False, True])
def test_random_resized_crop_is_pillow_crop_then_resize(flip):
    data = jpeg(120, 170)
    draws = np.random.default_rng(1).random(23)
    draws[22] = 0.1 if flip else 0.9
    crop = RandomResizedCrop()
    top, left, h, w = crop.box(120, 170, draws)
    with Image.open(io.BytesIO(data)) as image:
        part = image.crop((left, top, left + w, top + h)).resize((64, 64), Image.Resampling.BICUBIC)
    want = np.asarray(part)[:, ::-1] if flip else np.asarray(part)
    chex.assert_trees_all_equal(crop.read(data, 64, 3, draws), want)
    unflipped = RandomResizedCrop(flip=False).read(data, 64, 3, draws)
    chex.assert_trees_all_equal(unflipped, np.asarray(part))


def test_scaled_decoding_moves_few_pixels_and_only_those_of_large_crops():
    crop, scaled = RandomResizedCrop(), RandomResizedCrop(scaled_decode=True)
    draws = np.random.default_rng(2).random(23)
    small = jpeg(120, 170)
    chex.assert_trees_all_equal(scaled.read(small, 64, 3, draws), crop.read(small, 64, 3, draws))
    assert decode(jpeg(427, 640), 3, (200, 100)).shape == (214, 320, 3)
    large = encoded(Image.fromarray(PHOTO), 'jpeg')
    draws[:10] = 1.0
    difference = np.abs(scaled.read(large, 64, 3, draws).astype(int) - crop.read(large, 64, 3, draws))
    assert 0 < difference.mean() < 3


def test_without_antialiasing_there_is_only_bilinear():
    draws = np.random.default_rng(3).random(23)
    plain = RandomResizedCrop(interpolation='bilinear', antialias=False)
    smooth = RandomResizedCrop(interpolation='bilinear')
    a, b = (crop.read(jpeg(120, 170), 32, 3, draws).astype(int) for crop in (plain, smooth))
    assert 1 < np.abs(a - b).mean() < 25
    with pytest.raises(
        ValueError,
        match="antialias=False is there for interpolation='bilinear' alone, not 'bicubic'",
    ):
        RandomResizedCrop(antialias=False)


def reference_center(image: Image.Image, size: int, short: int) -> np.ndarray:
    """torchvision: Resize(short), then CenterCrop(size)."""
    width, height = image.size
    if width <= height:
        width, height = short, int(short * height / width)
    else:
        width, height = int(short * width / height), short
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    return np.asarray(image.crop((left, top, left + size, top + size)))


@pytest.mark.parametrize(('height', 'width'), [(120, 170), (171, 120), (40, 50), (101, 101)])
def test_evaluation_is_torchvisions_resize_and_center_crop(height, width):
    data = jpeg(height, width)
    with Image.open(io.BytesIO(data)) as image:
        want = reference_center(image.convert('RGB'), 56, int(256 / 224 * 56))
        tight = reference_center(image.convert('RGB'), 56, math.floor(56 / 0.9))
    chex.assert_trees_all_equal(CenterCrop().read(data, 56, 3, NONE), want)
    chex.assert_trees_all_equal(CenterCrop(fraction=0.9).read(data, 56, 3, NONE), tight)


def test_256_over_224_and_0875_round_alike():
    assert all(int(size / 0.875) == int(256 / 224 * size) for size in range(1, 2048))


def test_resize_leaves_an_image_of_the_right_size_alone():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    chex.assert_trees_all_equal(Resize().read(encode_png(image), 8, 1, NONE), image)
    larger = Resize('nearest').read(encode_png(image), 16, 1, NONE)
    chex.assert_trees_all_equal(larger, image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize('flip', [False, True])
def test_pad_crop_is_pad_shift_flip(flip):
    rng = np.random.default_rng(0)
    images = rng.integers(1, 256, (200, 6, 6, 2), dtype=np.uint8)
    draws = rng.random((200, 3))
    got = PadCrop(padding=2, flip=flip).adjust(images, draws)
    seen = set()
    for image, (y, x, mirror), out in zip(images, draws, got, strict=True):
        top, left = int(y * 5), int(x * 5)
        want = np.pad(image, ((2, 2), (2, 2), (0, 0)))[top : top + 6, left : left + 6]
        want = want[:, ::-1] if flip and mirror < 0.5 else want
        chex.assert_trees_all_equal(out, want)
        seen.add((top, left))
    assert len(seen) == 25


TYPES = ('uint8', 'uint16', 'int16', 'float32')


@pytest.mark.parametrize('channels', [1, 2, 4, 5])
@pytest.mark.parametrize('dtype', TYPES)
def test_every_crop_carries_every_type_and_leaves_an_image_of_the_right_size_alone(dtype, channels):
    image = numbers(dtype, 8, 8, channels)
    draws = np.full(23, 0.999)  # the whole image, unflipped
    for crop in (Resize(), PadCrop(), CenterCrop(fraction=1.0), RandomResizedCrop(area=(1, 1), ratio=(1, 1))):
        got = crop.read(image, 8, channels, draws)
        chex.assert_trees_all_equal(got, image)
        assert crop.read(image, 5, channels, draws).dtype == dtype
    larger = Resize('nearest').read(image, 16, channels, NONE)
    chex.assert_trees_all_equal(larger, image.repeat(2, 0).repeat(2, 1))
    smooth = RandomResizedCrop(area=(1, 1), ratio=(1, 1), interpolation='bilinear', antialias=False)
    assert smooth.read(image, 5, channels, draws).shape == (5, 5, channels)
    moved = PadCrop(padding=1).adjust(image[None], np.array([[0.0, 0.5, 0.9]]))[0]  # by one row
    chex.assert_trees_all_equal(moved, np.concatenate([np.zeros_like(image[:1]), image[:-1]]))


@pytest.mark.parametrize('dtype', TYPES)
def test_a_resized_image_stays_in_range_and_is_rounded(dtype):
    low, high = (-1, 1) if dtype == 'float32' else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    steps = np.full((16, 16, 2), low, dtype)
    steps[8:] = high
    got = Resize().read(steps, 32, 2, NONE)  # bicubic overshoots at an edge
    assert got[0, 0, 0] == low and got[-1, 0, 0] == high and (got[..., 0] == got[..., 1]).all()
    half = Resize('bilinear').read(np.array([[[1], [2]], [[1], [2]]], dtype), 1, 1, NONE)
    assert half.item() == (1.5 if dtype == 'float32' else 2)


def test_four_channels_are_resized_each_alone():
    """Pillow's own resize of RGBA takes the fourth for opacity, and forgets what is transparent."""
    image = numbers('uint8', 12, 12, 4)
    image[..., 3] = 0
    got = Resize().read(image, 6, 4, NONE)
    alone = [Resize().read(image[..., c : c + 1], 6, 1, NONE) for c in range(4)]
    assert np.abs(got.astype(int) - np.concatenate(alone, axis=-1)).max() <= 1
    assert got[..., :3].any()
