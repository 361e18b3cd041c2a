"""RandAugment: Pillow's pixels, timm's distribution."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps
from sklearn.datasets import load_sample_image

from longview.methods.randaugment import OPS, RandAugment
from tests.modelzoo import tiny

SIDE = 48
FILL = (124, 116, 104)
ARGUMENTS = {
    'rotate': (-30.0, -27.25, 0.0, 13.75, 26.125, 30.0),
    'posterize': (0, 1, 2, 3, 4),
    'solarize': (0, 26, 128, 256),
    'solarize_add': (0, 50, 99, 110),
    'shear_x': (-0.3, 0.265, 0.013),
    'shear_y': (-0.3, 0.265, 0.013),
    'translate_x': (-0.405, 0.25, 0.39),
    'translate_y': (-0.405, 0.25, 0.39),
} | dict.fromkeys(('color', 'contrast', 'brightness', 'sharpness'), (0.1, 0.19, 0.77, 1.0, 1.3, 1.81, 1.9))


def calibration_images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    return {
        'noise': rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8),
        'dark noise': rng.integers(30, 90, (SIDE, SIDE, 3), dtype=np.uint8),
        'gradient': np.stack([5 * x, 2 * y + 40, np.full_like(x, 77)], axis=-1).astype(np.uint8),
        'constant': np.full((SIDE, SIDE, 3), 200, np.uint8),
        'china': load_sample_image('china.jpg')[100 : 100 + SIDE, 200 : 200 + SIDE],
        'flower': load_sample_image('flower.jpg')[150 : 150 + SIDE, 300 : 300 + SIDE],
    }


IMAGES = calibration_images()


def pillow(op: str, image: Image.Image, argument: float, resample: int) -> Image.Image:
    """What timm calls for each operation."""
    width, height = image.size

    def transform(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix, resample, fillcolor=FILL)

    added = [min(255, level + int(argument)) if level < 128 else level for level in range(256)]
    calls = {
        'autocontrast': lambda: ImageOps.autocontrast(image),
        'equalize': lambda: ImageOps.equalize(image),
        'invert': lambda: ImageOps.invert(image),
        'rotate': lambda: image.rotate(argument, resample, fillcolor=FILL),
        # Newer Pillows refuse to keep no bit at all; older ones make the image black.
        'posterize': lambda: ImageOps.posterize(image, int(argument)) if argument else image.point(lambda _: 0),
        'solarize': lambda: ImageOps.solarize(image, argument),
        'solarize_add': lambda: image.point(3 * added),
        'color': lambda: ImageEnhance.Color(image).enhance(argument),
        'contrast': lambda: ImageEnhance.Contrast(image).enhance(argument),
        'brightness': lambda: ImageEnhance.Brightness(image).enhance(argument),
        'sharpness': lambda: ImageEnhance.Sharpness(image).enhance(argument),
        'shear_x': lambda: transform(1, argument, 0, 0, 1, 0),
        'shear_y': lambda: transform(1, 0, 0, argument, 1, 0),
        'translate_x': lambda: transform(1, 0, argument * width, 0, 1, 0),
        'translate_y': lambda: transform(1, 0, 0, 0, 1, argument * height),
    }
    return calls[op]()


def on_images(augment):
    """`augment.distort`, which takes planes, as a function of an image."""

    def distort(image, op, argument):
        planes = augment.distort(jnp.moveaxis(jnp.asarray(image, jnp.int32), -1, 0), op, argument)
        return jnp.moveaxis(planes, 0, -1).astype(jnp.uint8)

    return distort


@pytest.fixture(scope='module')
def distort():
    """Compiled once: `distort(interpolation)(images, op, argument)` over a stack of images."""
    return {
        name: tiny.jit(jax.vmap(on_images(RandAugment(interpolation=name)), (0, None, None)))
        for name in ('bicubic', 'bilinear')
    }


MAPS = ('rotate', 'shear_x', 'shear_y', 'translate_x', 'translate_y')  # what interpolates


@pytest.mark.parametrize('op, interpolation', [*((op, 'bicubic') for op in OPS), *((op, 'bilinear') for op in MAPS)])
def test_within_one_gray_level_of_pillow(distort, op, interpolation):
    stack = jnp.stack(list(IMAGES.values()))
    resample = Image.Resampling[interpolation.upper()]
    for argument in ARGUMENTS.get(op, (0.0,)):
        argument = float(np.float32(argument))
        got = np.asarray(distort[interpolation](stack, jnp.int32(OPS.index(op)), jnp.float32(argument)))
        for name, image, mine in zip(IMAGES, IMAGES.values(), got, strict=True):
            want = np.asarray(pillow(op, Image.fromarray(image), argument, resample))
            difference = np.abs(mine.astype(int) - want.astype(int))
            assert difference.max() <= 1, f'{op}({argument}) on {name}: {difference.max()} levels'
            assert (difference > 0).mean() < 0.05, f'{op}({argument}) on {name}'


def test_operations_do_something():
    image, augment = IMAGES['dark noise'], RandAugment()

    @tiny.jit
    def strong(op):
        argument = augment.argument(op, jnp.float32(9.0), jnp.float32(1.0))
        return on_images(augment)(image, op, argument)

    for number, op in enumerate(OPS):
        assert (np.asarray(strong(np.int32(number))) != image).mean() > 0.5, op


def test_published_contrast_blends_with_the_number_of_pixels():
    image = np.full((224, 224, 3), 115, np.uint8)
    for contrast, level in (('pil', 115), ('published', 196)):
        augment = RandAugment(ops=('contrast',), contrast=contrast)
        got = np.asarray(tiny.jit(on_images(augment))(image, np.int32(0), np.float32(0.5)))
        assert (got == (level + 115) // 2).all()


def test_gray_images_keep_their_one_channel():
    image = IMAGES['china'][..., :1]
    distort = tiny.jit(on_images(RandAugment(fill=(0,))))
    color = distort(image, np.int32(OPS.index('color')), np.float32(1.8))  # the shape does not depend on the operation
    chex.assert_trees_all_equal(np.asarray(color), image)


def reference_argument(op: str, rng: np.random.Generator) -> float:
    """timm's rand-m9-mstd0.5-inc1: the argument of one operation."""
    level = min(10.0, max(0.0, rng.normal(9.0, 0.5)))
    sign = rng.choice([-1, 1])
    return {
        'rotate': sign * level * 3,
        'posterize': 4 - int(level / 10 * 4),
        'solarize': 256 - min(256, int(level / 10 * 256)),
        'solarize_add': min(128, int(level / 10 * 110)),
        'shear_x': sign * level * 0.03,
        'shear_y': sign * level * 0.03,
        'translate_x': sign * level * 0.045,
        'translate_y': sign * level * 0.045,
    }.get(op, max(0.1, 1 + sign * level * 0.09))


def test_draws_follow_the_published_distribution():
    count = 60_000
    draw = tiny.jit(jax.vmap(RandAugment().draw))
    ops, arguments, apply = map(np.asarray, draw(jax.random.split(jax.random.key(1), count)))
    assert abs(apply.mean() - 0.5) < 4 * 0.5 / math.sqrt(count)
    share = np.bincount(ops, minlength=15) / count
    assert np.abs(share - 1 / 15).max() < 4 * math.sqrt(1 / 15 / count)
    assert abs(np.corrcoef(ops, apply)[0, 1]) < 0.02
    rng = np.random.default_rng(0)
    for number, op in enumerate(OPS):
        if op in ('autocontrast', 'equalize', 'invert'):
            continue
        got = arguments[ops == number]
        want = np.array([reference_argument(op, rng) for _ in range(len(got))])
        # Kolmogorov-Smirnov at p = 1e-4; ties only make it stricter on nothing.
        values = np.union1d(got, want)
        below = [np.searchsorted(np.sort(x), values, side='right') / len(x) for x in (got, want)]
        assert np.abs(below[0] - below[1]).max() < 2.23 * math.sqrt(2 / len(got)), op


def test_layers_are_drawn_apart_with_replacement():
    """Of two layers that invert or do nothing, half invert an odd number of times."""
    count = 1000
    image = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    augment = RandAugment(ops=('invert', 'autocontrast'), probability=1.0, fill=(0,))
    keys = jax.random.split(jax.random.key(2), count)
    out = np.asarray(tiny.jit(jax.vmap(augment.augment, (None, 0)))(image, keys))
    inverted = (out == 255 - image[None]).all(axis=(1, 2, 3))
    assert (inverted | (out == image[None]).all(axis=(1, 2, 3))).all()
    assert abs(inverted.mean() - 0.5) < 4 * 0.5 / math.sqrt(count)


@pytest.mark.parametrize(
    ('field', 'value'),
    [('ops', ('rotate', 'cutout')), ('interpolation', 'cubic'), ('contrast', 'big_vision')],
)
def test_unknown_names_are_refused(field, value):
    with pytest.raises(ValueError, match=f'for {field}; it knows'):
        RandAugment(**{field: value})


def test_fill_must_fit_the_channels():
    batch = {'image': jnp.zeros((2, 8, 8, 1), jnp.uint8)}
    with pytest.raises(ValueError, match='3 fill levels for images of 1 channels; give one for each'):
        RandAugment()(batch, jax.random.key(0))
