"""RandAugment on the device, with Pillow's pixels.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
2020, https://arxiv.org/abs/1909.13719, in the form of timm's `rand-m9-mstd0.5-inc1`,
https://github.com/huggingface/pytorch-image-models (Apache-2): fifteen operations, two drawn with
replacement per image, each carried out with probability 1/2 at a magnitude from N(9, 0.5) cut to
[0, 10], 'increasing' (a larger magnitude always changes more).

Under vmap a switch between operations computes all of them, so they are written as what they share:
eight are a table of 256 values per channel, two blend the image with a gray or smoothed copy of
itself, five resample it by an affine map. Each layer makes one table, one blend and one map, most
of them trivial, and no image waits for another.

Pixels are planes, channels first: as a last axis three channels would fill 128 lanes of a TPU.

Each operation gives Pillow's pixels within one gray level (float32 here, double there).
Where we differ: drawn from keys, see methods/augment.py. `contrast='published'` reproduces the slip
of big_vision (https://github.com/google-research/big_vision, Apache-2) and its descendants, which
blend with H W / 256 (196 at 224 pixels) instead of the mean gray.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from longview.methods.augment import RAND_AUGMENT, Batch, example_keys, refuse_places, require_pixels

OPS = (
    'autocontrast',
    'equalize',
    'invert',
    'rotate',
    'posterize',
    'solarize',
    'solarize_add',
    'color',
    'contrast',
    'brightness',
    'sharpness',
    'shear_x',
    'shear_y',
    'translate_x',
    'translate_y',
)

# The four weights of interpolation between pixels 1 and 2 of 0..3 are polynomials in the fraction;
# written on differences, as Pillow does, a constant region stays exactly constant.
_TAPS = {
    'bilinear': lambda v, d: v[1] + d * (v[2] - v[1]),
    'bicubic': lambda v, d: (
        v[1] + d * ((v[2] - v[0]) + d * ((2 * (v[0] - v[1]) + v[2] - v[3]) + d * (v[1] - v[0] + v[3] - v[2])))
    ),
}


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Two random distortions of each image.

    Attributes:
        magnitude: 0..10.
        magnitude_std: deviation of the magnitude, drawn anew for each operation.
        layers: operations per image.
        probability: that a drawn operation is carried out.
        ops: what is drawn from, names of `OPS`.
        fill: gray levels of each channel outside the image; timm's are its mean, rounded.
        interpolation: 'bicubic' (Pillow's, a = -1) or 'bilinear', for the affine operations.
        translate: largest translation, as a share of the side.
        contrast: 'pil' or 'published', see the file's docstring.
    """

    magnitude: float = 9.0
    magnitude_std: float = 0.5
    layers: int = 2
    probability: float = 0.5
    ops: tuple[str, ...] = OPS
    fill: tuple[int, ...] = (124, 116, 104)
    interpolation: str = 'bicubic'
    translate: float = 0.45
    contrast: str = 'pil'

    def __post_init__(self) -> None:
        for field, known in (
            ('ops', OPS),
            ('interpolation', tuple(_TAPS)),
            ('contrast', ('pil', 'published')),
        ):
            value = getattr(self, field)
            for name in (value,) if isinstance(value, str) else value:
                if name not in known:
                    raise ValueError(f'RandAugment has no {name!r} for {field}; it knows {", ".join(known)}.')

    def __call__(self, batch: Batch, rng: PRNGKeyArray) -> Batch:
        """Changes `batch['image']`, uint8 (B, H, W, C)."""
        image = batch['image']
        require_pixels(image, False, 'RandAugment')
        refuse_places(batch, 'RandAugment')
        if len(self.fill) != image.shape[-1]:
            raise ValueError(
                f'RandAugment has {len(self.fill)} fill levels for images of {image.shape[-1]} '
                'channels; give one for each.'
            )
        keys = example_keys(batch, rng, RAND_AUGMENT)
        return batch | {'image': jax.vmap(self.augment)(image, keys)}

    def augment(self, image: UInt8[Array, 'h w c'], key: PRNGKeyArray) -> UInt8[Array, 'h w c']:
        """One image, all layers."""

        def layer(planes: Array, key: PRNGKeyArray) -> tuple[Array, None]:
            op, argument, apply = self.draw(key)
            return jnp.where(apply, self.distort(planes, op, argument), planes), None

        planes = jnp.moveaxis(image, -1, 0).astype(jnp.int32)
        planes, _ = jax.lax.scan(layer, planes, jax.random.split(key, self.layers))
        return jnp.moveaxis(planes.astype(jnp.uint8), 0, -1)

    def draw(self, key: PRNGKeyArray) -> tuple[Int[Array, ''], Float[Array, ''], Array]:
        """(operation as a position in `ops`, its argument, whether to carry it out)."""
        unit, normal = jax.random.split(key)
        which, sign, apply = jax.random.uniform(unit, (3,))
        op = jnp.floor(which * len(self.ops)).astype(jnp.int32)
        level = jnp.clip(self.magnitude + self.magnitude_std * jax.random.normal(normal), 0, 10)
        argument = self.argument(op, level, jnp.where(sign < 0.5, -1.0, 1.0))
        return op, argument, apply < self.probability

    def argument(self, op: Int[Array, ''], level: Float[Array, ''], sign: Float[Array, '']) -> Float[Array, '']:
        """What the operation is called with: degrees, bits, threshold, factor, share of a side."""
        part = level / 10
        enhance = jnp.maximum(0.1, 1 + 0.9 * sign * part)
        arguments = {
            'rotate': 30 * sign * part,
            'posterize': 4 - jnp.floor(4 * part),
            'solarize': 256 - jnp.minimum(256, jnp.floor(256 * part)),
            'solarize_add': jnp.minimum(128, jnp.floor(110 * part)),
            'shear_x': 0.3 * sign * part,
            'shear_y': 0.3 * sign * part,
            'translate_x': self.translate * sign * part,
            'translate_y': self.translate * sign * part,
        } | dict.fromkeys(('color', 'contrast', 'brightness', 'sharpness'), enhance)
        return jnp.stack([arguments.get(name, jnp.zeros(())) for name in self.ops])[op]

    def distort(
        self, planes: Int[Array, 'c h w'], op: Int[Array, ''], argument: Float[Array, '']
    ) -> Int[Array, 'c h w']:
        """Carries out operation `ops[op]` on an image of 0..255, channels first."""
        planes = self._tabulated(planes, op, argument)
        planes = self._blended(planes, op, argument)
        return self._mapped(planes, op, argument)

    def _tabulated(
        self, planes: Int[Array, 'c h w'], op: Int[Array, ''], argument: Float[Array, '']
    ) -> Int[Array, 'c h w']:
        value = jnp.arange(256)[None]
        channels = planes.shape[0]
        counts = histogram(planes)
        shift = 8 - argument.astype(jnp.int32)
        added = jnp.minimum(value + argument.astype(jnp.int32), 255)
        tables = {
            'autocontrast': autocontrast_table(counts),
            'equalize': equalize_table(counts),
            'invert': 255 - value,
            'posterize': value >> shift << shift,
            'solarize': jnp.where(value < argument, value, 255 - value),
            'solarize_add': jnp.where(value < 128, added, value),
            'contrast': blend(self._contrast_level(planes), value, argument),
            'brightness': blend(jnp.int32(0), value, argument),
        }
        table = jnp.stack([jnp.broadcast_to(tables.get(n, value), (channels, 256)) for n in self.ops])
        return jax.vmap(jnp.take)(table[op], planes)

    def _contrast_level(self, planes: Int[Array, 'c h w']) -> Int[Array, '']:
        count = planes.shape[1] * planes.shape[2]
        if self.contrast == 'published':
            return jnp.int32(min(count // 256, 255))
        return (2 * to_gray(planes).sum() + count) // (2 * count)

    def _blended(
        self, planes: Int[Array, 'c h w'], op: Int[Array, ''], factor: Float[Array, '']
    ) -> Int[Array, 'c h w']:
        gray = to_gray(planes)
        other = jnp.where(self._is(op, 'color'), gray[None], smooth(planes))
        return jnp.where(self._is(op, 'color', 'sharpness'), blend(other, planes, factor), planes)

    def _mapped(
        self, planes: Int[Array, 'c h w'], op: Int[Array, ''], argument: Float[Array, '']
    ) -> Int[Array, 'c h w']:
        height, width = planes.shape[1:]
        one, zero = jnp.ones(()), jnp.zeros(())
        maps = {
            'rotate': rotation(argument, height, width),
            'shear_x': (one, argument, zero, zero, one, zero),
            'shear_y': (one, zero, zero, argument, one, zero),
            'translate_x': (one, zero, argument * width, zero, one, zero),
            'translate_y': (one, zero, zero, zero, one, argument * height),
        }
        identity = (one, zero, zero, zero, one, zero)
        chosen = jnp.stack([jnp.stack(maps.get(name, identity)) for name in self.ops])[op]
        moved = affine(planes, chosen, jnp.array(self.fill), self.interpolation)
        return jnp.where(self._is(op, *maps), moved, planes)

    def _is(self, op: Int[Array, ''], *names: str) -> Array:
        return jnp.array([name in names for name in self.ops])[op]


def histogram(planes: Int[Array, 'c h w']) -> Int[Array, 'c 256']:
    """How often each channel has each gray level."""
    return jax.vmap(lambda plane: jnp.bincount(plane.ravel(), length=256))(planes)


def autocontrast_table(counts: Int[Array, 'c 256']) -> Int[Array, 'c 256']:
    """Stretches each channel to 0..255; one of a single level stays."""
    value = jnp.arange(256)[None]
    low = jnp.argmax(counts > 0, axis=1, keepdims=True)
    high = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1, keepdims=True)
    stretched = 255 * (value - low) // jnp.maximum(high - low, 1)
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), value)


def equalize_table(counts: Int[Array, 'c 256']) -> Int[Array, 'c 256']:
    """Makes the gray levels of each channel about equally frequent, in Pillow's integers."""
    value = jnp.arange(256)[None]
    highest = 255 - jnp.argmax(counts[:, ::-1] > 0, axis=1, keepdims=True)
    total = counts.sum(axis=1, keepdims=True)
    step = (total - jnp.take_along_axis(counts, highest, axis=1)) // 255
    before = jnp.cumsum(counts, axis=1) - counts
    equalized = (step // 2 + before) // jnp.maximum(step, 1)
    return jnp.where(step > 0, jnp.minimum(equalized, 255), value)


def to_gray(planes: Int[Array, 'c h w']) -> Int[Array, 'h w']:
    """Pillow's luma, (19595 R + 38470 G + 7471 B + 2**15) / 2**16; gray images stay."""
    if len(planes) == 1:
        return planes[0]
    red, green, blue = planes
    return (19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16


def smooth(planes: Int[Array, 'c h w']) -> Int[Array, 'c h w']:
    """Pillow's ImageFilter.SMOOTH: the pixel 5 times and its 8 neighbors, over 13; borders stay."""
    rows = planes[:, :-2] + planes[:, 1:-1] + planes[:, 2:]
    inner = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * planes[:, 1:-1, 1:-1]
    return planes.at[:, 1:-1, 1:-1].set((2 * inner + 13) // 26)


def blend(start: Int[Array, '*#s'], end: Int[Array, '*#s'], factor: Float[Array, '']) -> Int[Array, '*#s']:
    """start + factor (end - start), cut to 0..255 and rounded down."""
    mixed = start.astype(jnp.float32) + factor * (end - start).astype(jnp.float32)
    return jnp.clip(mixed, 0, 255).astype(jnp.int32)


def rotation(degrees: Float[Array, ''], height: int, width: int) -> tuple[Array, ...]:
    """The affine map of a counterclockwise rotation around the center."""
    cos, sin = jnp.cos(jnp.radians(degrees)), jnp.sin(jnp.radians(degrees))
    x, y = width / 2, height / 2
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


def affine(
    planes: Int[Array, 'c h w'],
    matrix: Float[Array, 6],
    fill: Int[Array, c],
    interpolation: str,
) -> Int[Array, 'c h w']:
    """Pixel (x, y) of the result is read at (a x + b y + c, d x + e y + f), `fill` outside.

    Coordinates are of pixel centers, as in Pillow's Image.transform; `matrix` is (a, ..., f).
    """
    height, width = planes.shape[1:]
    x, y = jnp.arange(width)[None] + 0.5, jnp.arange(height)[:, None] + 0.5
    a, b, c, d, e, f = matrix
    source_x, source_y = a * x + b * y + c, d * x + e * y + f
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    left, top = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
    dx, dy = (source_x - 0.5 - left)[None], (source_y - 0.5 - top)[None]
    columns = [jnp.clip(left.astype(jnp.int32) + k, 0, width - 1) for k in range(-1, 3)]
    rows = [jnp.clip(top.astype(jnp.int32) + k, 0, height - 1) for k in range(-1, 3)]
    flat, plane = planes.ravel(), (jnp.arange(len(planes)) * (height * width))[:, None, None]
    read = lambda row, column: flat[plane + (row * width + column)[None]].astype(jnp.float32)
    taps = _TAPS[interpolation]
    lines = [taps([read(r, q) for q in columns], dx) for r in rows]
    result = jnp.clip(taps(lines, dy), 0, 255).astype(jnp.int32)
    return jnp.where(inside[None], result, fill[:, None, None])
