"""Cross-D convolution: one kernel for volumes, of which each image gets a slice of its own.

Yavuz and Yang, 2024, "Cross-D Conv: Cross-Dimensional Transferable Knowledge Base via Fourier Shifting Operation",
https://arxiv.org/abs/2411.02441; reference https://github.com/convergedmachine/Cross-D-Conv (MIT), commit 18f5a7c.

From each image an axis k and an angle below 45 degrees are predicted. The frequencies f of the kernel are turned by
``R = I + angle [k]_x``, to first order a rotation, its spectrum is multiplied by ``exp(-2 pi i sum(R f))``, and the
image is convolved with the middle slice of what comes back. Volumes are convolved with the kernel itself, so weights
that were trained on images serve volumes. The reference takes them over in the same way and trains norms and head anew.

We compute the same otherwise: ``sum(R f)`` is ``t . f`` with the column sums t of R, so the phases shift the kernel by
t, around its borders and between its places, and a shift is a product of one matrix along each axis. For odd sides,
which alone have a middle slice, these are real. The slices of all images are made place by place, in the backward pass
anew, so they are never there as a whole.

As in the reference there is no bias by default, and kernels start by He's rule with the fan-out of the volume; what
predicts the rotation starts as torch's convolutions. Its batch statistics are used where they do not change (in
evaluation), and the batch's own where they do.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.convolutions import places
from longview.modelzoo.layers.convolutions.conv import Conv, kernel_shape
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.norms.batchnorm import BatchNorm

_LARGEST = math.pi / 4

_NORM = (('weight', 'scale'), ('bias', 'bias'), ('running_mean', 'mean'), ('running_var', 'var'))
# A layer's published names and ours; see weights.py.
NAMES = (
    ('weights_3d', 'kernel'),
    *((f'rotation_params.0.{a}', f'rotation/hidden/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))),
    *((f'rotation_params.1.{a}', f'rotation/norm/{b}') for a, b in _NORM),
    *((f'rotation_params.3.{a}', f'rotation/out/{b}') for a, b in (('weight', 'kernel'), ('bias', 'bias'))),
)


class CrossDConv(nn.Module):
    """A convolution of images or volumes with the arguments of `conv.Conv`.

    Attributes:
        features, stride, padding, dtype, groups, use_bias, kernel_init, bias_init: as those of `conv.Conv`.
        kernel_size: odd side of the kernel, the same along every axis.
        hidden: width of what predicts the rotation.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: places.Paddings = 0
    dtype: DTypeLike = jnp.float32
    groups: int = 1
    use_bias: bool = False
    kernel_init: init.Initializer = jax.nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
    bias_init: init.Initializer = jax.nn.initializers.zeros
    hidden: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, 'b *places c']) -> Float[Array, 'b *out d']:
        """Convolves images with their slices of the kernel, volumes with the kernel.

        Raises:
            ValueError: other arrays, a kernel without a middle, or groups that do not divide the channels.
        """
        if x.ndim not in (4, 5):
            raise ValueError(
                f'an array of shape {x.shape} is no batch of images or volumes: give one of 4 or 5 axes, channels last.'
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f'a kernel of side {self.kernel_size} has no middle slice: make the side odd.')
        shape = kernel_shape(x.shape[-1], self.features, self.kernel_size, self.groups)
        kernel = self.param('kernel', self.kernel_init, (self.kernel_size, *shape))
        x = x.astype(self.dtype)
        if x.ndim == 5:
            y = places.convolve(x, kernel.astype(self.dtype), self.stride, self.padding)
        else:
            shift = Rotation(self.hidden, self.dtype, name='rotation')(x)
            y = _convolve_each(x, kernel, shift, self.stride, self._pads(x.shape[1:3]))
        if not self.use_bias:
            return y
        bias = self.param('bias', self.bias_init, (self.features,))
        return y + places.per_channel(bias.astype(self.dtype), y)

    def _pads(self, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
        """Returns the zeros before and after the rows, and the columns, of an image."""
        if isinstance(self.padding, int):
            return ((self.padding, self.padding),) * 2
        if isinstance(self.padding, str):
            sides, strides = (self.kernel_size,) * 2, (self.stride,) * 2
            return tuple(lax.padtype_to_pads(size, sides, strides, self.padding))
        return self.padding


class Rotation(nn.Module):
    """Predicts how each image turns the kernel; all of it in terms of the shift t that the turned phases are.

    Attributes:
        hidden: width.
        dtype: compute type of the maps; what is predicted is float32.
    """

    hidden: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c']) -> Float[Array, 'b 3']:
        """Returns the shift along each axis of the kernel, in places."""
        changes = self.is_mutable_collection('batch_stats') and not self.is_initializing()
        y = Conv(self.hidden, 1, dtype=self.dtype, name='hidden')(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name='norm')(y, train=changes))
        y = Conv(4, 1, dtype=self.dtype, name='out')(y).astype(jnp.float32)
        y = y.reshape(x.shape[0], -1, 4)
        found = jnp.sum(y * nn.softmax(y, axis=1), axis=1)
        axis, angle = found[:, :3], _LARGEST * jnp.tanh(found[:, 3:])
        # Under the root for the gradient of an axis of length 0 alone; the other term is the reference's.
        axis = axis / (jnp.sqrt(jnp.sum(axis * axis, axis=1, keepdims=True) + 1e-20) + 1e-8)
        # Column sums of I + angle [axis]_x.
        return 1 + angle * (jnp.roll(axis, -2, axis=1) - jnp.roll(axis, -1, axis=1))


def mixes(side: int, shift: Float[Array, 'b 3']) -> Float[Array, 'b k k k3']:
    """Returns the shares that all places of a kernel have in its middle slice, once it is shifted around its borders.

    Args:
        side: of the kernel, odd.
        shift: along each axis, in places; between them the kernel is what its frequencies make it.
    """
    index = jnp.arange(side, dtype=jnp.float32)
    away = (index[:, None] - index[None])[None, None] - shift[..., None, None]  # (b, axis, to, from)
    waves = (2 * jnp.cos(2 * jnp.pi * wave * away / side) for wave in range(1, side // 2 + 1))
    moves = (1 + sum(waves, jnp.zeros_like(away))) / side
    first, rows, columns = moves[:, 0, side // 2], moves[:, 1], moves[:, 2]
    found = jnp.einsum('bu,bmv,bnw->bmnuvw', first, rows, columns, precision='highest')
    return found.reshape(*found.shape[:3], side**3)


def _convolve_each(
    x: Float[Array, 'b h w c'],
    kernel: Float[Array, 'k k k c2 d'],
    shift: Float[Array, 'b 3'],
    stride: int,
    pads: tuple[tuple[int, int], ...],
) -> Float[Array, 'b p q d']:
    """Returns each image convolved with its own slice, as a sum of products over the places of the slice.

    Products keep the batch an axis of its own, which a mesh may split; a convolution would make it groups of channels.
    One place at a time, forwards and backwards, no more than this place of the slices is ever there.
    """
    batch, side, (channels, features) = x.shape[0], kernel.shape[0], kernel.shape[-2:]
    groups, whole = x.shape[-1] // channels, kernel.reshape(side**3, channels, features)
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    if min(x.shape[1:3]) < side:
        raise ValueError(
            f'the kernel is {side} x {side} and the image with its padding {x.shape[1]} x {x.shape[2]}: pad more.'
        )
    rows, columns = ((length - side) // stride + 1 for length in x.shape[1:3])
    x = x.reshape(*x.shape[:3], groups, channels)
    spans = batch, (rows - 1) * stride + 1, (columns - 1) * stride + 1, groups, channels

    @jax.checkpoint
    def product(x: Array, whole: Array, row: Array, column: Array, mix: Array) -> Array:
        seen = lax.dynamic_slice(x, (0, row, column, 0, 0), spans)[:, ::stride, ::stride]
        own = jnp.einsum('bu,ucd->bcd', mix, whole, precision='highest').astype(x.dtype)
        own = own.reshape(batch, channels, groups, features // groups)
        return jnp.einsum('bpqgc,bcgd->bpqgd', seen, own, preferred_element_type=jnp.float32)

    def add(y: Array, place: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return y + product(x, whole, *place), None

    of_places = mixes(side, shift).reshape(batch, side**2, side**3).swapaxes(0, 1)
    indices = jnp.divmod(jnp.arange(side**2), side)
    y = jnp.zeros((batch, rows, columns, groups, features // groups), jnp.float32)
    y, _ = lax.scan(add, y, (*indices, of_places))
    return y.reshape(batch, rows, columns, features).astype(x.dtype)
