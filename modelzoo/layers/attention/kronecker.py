"""Kronecker attention: images and volumes attend over the means along each axis, not over all their places.

Gao, Wang and Ji, 2020, "Kronecker Attention Networks", https://arxiv.org/abs/2007.08442, KDD 2020. Attention over an
image of h x w pixels has (h w)^2 weights; here its keys are the h means over each row and the w means over each column,
as if the image were drawn from a matrix-variate normal distribution, whose covariance is a Kronecker product. Images
and volumes of any number of axes are treated alike: along each axis the means over all the others.

Reference: https://github.com/lucidrains/kronecker-attention-pytorch (MIT), a re-implementation of KAO_QKV; the authors'
own code, for TensorFlow, was not at hand. As there and in the paper's equation, products are not divided by the root of
the channels of a head, and the last matrix, with a bias, acts on the means before they are added: the bias counts once
for each axis. Where we differ: heads may be as wide as the channels allow (the paper has one without matrices), and
KAO_KV, which the re-implementation lacks, has the matrices of KAO_QKV.
"""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.modelzoo.layers.attention.attention import attend, merge_heads, split_heads
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense

FORMS = ('qkv', 'kv', 'full')


class KroneckerAttention(nn.Module):
    """``out(softmax(scale q k^T) v)``, with queries, keys and values of the means along the axes.

    Attributes:
        heads: number of heads; divides the channels.
        form: 'qkv' for queries of the means too, whose outputs are added as an outer sum (KAO_QKV); 'kv' for queries of
            all places (KAO_KV); 'full' for plain attention over all places, with the same parameters as 'qkv'.
        head_width: channels of a head, if they are others than the channels divided by the heads.
        qkv_bias: whether queries, keys and values have a bias.
        scale: of the products.
        skip: whether the input is added, for a place inside of a branch.
        kernel_init: initial values of the matrices.
        dtype: compute type; means and the softmax are float32.
    """

    heads: int
    form: str = 'qkv'
    head_width: int | None = None
    qkv_bias: bool = False
    scale: float = 1.0
    skip: bool = False
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b *n c'], *, train: bool = False) -> Float[Array, 'b *n c']:
        """Mixes the places of an image, of a volume, or of a sequence, for which all forms are plain attention.

        Raises:
            ValueError: an unknown form, or heads that do not divide the channels.
        """
        del train
        if self.form not in FORMS:
            raise ValueError(f'form is {self.form!r}: use one of {", ".join(FORMS)}.')
        places = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = places if self.form == 'full' else means(x).astype(x.dtype)
        inner = x.shape[-1] if self.head_width is None else self.heads * self.head_width
        dense = functools.partial(Dense, use_bias=self.qkv_bias, kernel_init=self.kernel_init, dtype=self.dtype)
        if self.form == 'kv':
            q = dense(inner, name='q')(places)
            k, v = jnp.split(dense(2 * inner, name='kv')(tokens), 2, axis=-1)
        else:
            q, k, v = jnp.split(dense(3 * inner, name='qkv')(tokens), 3, axis=-1)
        y = merge_heads(attend(*(split_heads(part, self.heads) for part in (q, k, v)), scale=self.scale))
        y = Dense(x.shape[-1], True, self.kernel_init, self.dtype, name='out')(y)
        y = outer_sum(y, x.shape[1:-1]) if self.form == 'qkv' else y.reshape(x.shape)
        return x + y if self.skip else y


class OnGrid(nn.Module):
    """A part for maps, as the mixer of a transformer whose tokens are the pixels of a map, row by row.

    Attributes:
        heads: as of every mixer.
        part: factory of the part, with the arguments `heads` and `dtype`.
        rows: rows of the map; None for a square one.
        dtype: compute type.
    """

    heads: int
    part: Callable[..., nn.Module] = KroneckerAttention
    rows: int | None = None
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens.

        Raises:
            ValueError: the tokens are no map of so many rows, for instance because of a class token.
        """
        rows = math.isqrt(x.shape[1]) if self.rows is None else self.rows
        if x.shape[1] % rows or (self.rows is None and rows * rows != x.shape[1]):
            wanted = 'a square map' if self.rows is None else f'a map of {rows} rows'
            raise ValueError(
                f'{x.shape[1]} tokens are not {wanted}: leave out tokens that are no pixels (prefix=()), or set rows.'
            )
        y = self.part(heads=self.heads, dtype=self.dtype, name='part')(
            x.reshape(x.shape[0], rows, -1, x.shape[-1]), train=train
        )
        return y.reshape(x.shape)


def means(x: Float[Array, 'b *n c']) -> Float[Array, 'b m c']:
    """Returns, in float32, for each place along each axis the mean over all other axes; the axes one after the other.

    For an image of h x w pixels these are h + w tokens: the means of its rows, then those of its columns.
    """
    x, axes = x.astype(jnp.float32), range(1, x.ndim - 1)
    return jnp.concatenate([jnp.mean(x, axis=tuple(other for other in axes if other != axis)) for axis in axes], axis=1)


def outer_sum(tokens: Float[Array, 'b m c'], sides: tuple[int, ...]) -> Float[Array, 'b *n c']:
    """Returns a map of these sides, each place of which is the sum of its tokens of all axes, by `means`."""
    starts = [sum(sides[:axis]) for axis in range(len(sides) + 1)]
    parts = [tokens[:, start:stop] for start, stop in zip(starts, starts[1:])]
    shape = lambda axis: (-1, *(side if other == axis else 1 for other, side in enumerate(sides)), tokens.shape[-1])
    parts = [part.reshape(shape(axis)) for axis, part in enumerate(parts)]
    return sum(parts[1:], parts[0])


# The names of the re-implementation.
NAMES = (
    ('to_qkv.weight', 'qkv/kernel', 1),
    ('to_out.weight', 'out/kernel', 1),
    ('to_out.bias', 'out/bias'),
)
