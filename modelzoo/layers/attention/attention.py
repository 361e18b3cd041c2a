"""Multi-head self-attention over all tokens.

Vaswani et al., 2017, https://arxiv.org/abs/1706.03762. Queries, keys and values come from one matrix, in that order,
as in the published vision transformers. Heads are an axis before the tokens, B H N K. The products and the softmax, in
float32, are those of `kernels.attention`: ``--config.kernels.attention=splash`` names a library's kernel for them all.

Every attention layer of the zoo passes its softmax weights through `shown`, and whoever wants to see them traces the
network inside of `watching` (analysis/attention_maps.py). Nobody watches by default, and then nothing is kept.
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from longview.kernels.attention import attention, attention_weights
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.residuals.value_residual import ValueMix

# Where a head's answer may be multiplied by its number: before the last matrix, or the matrix's output cut into heads.
HEAD_SCALES = ('heads', 'out')


class Attention(nn.Module):
    """``out(softmax(q k^T / sqrt(K)) v)`` with ``[q | k | v] = qkv(x)``.

    Attributes:
        heads: number of heads; divides the width.
        qkv_bias: whether `qkv` has a bias; `out` always has one.
        kernel_init: initial values of both matrices.
        dtype: compute type; the softmax is float32.
        out_init: initial values of the second matrix, if they differ.
        scale: of the logits, if it is another than 1 / sqrt(K).
        head_width: channels of a head, if they are others than the width divided by the heads.
        head_scale, out_norm: see `leave`.
        qkv_norm: factory of the norms of queries, keys and values over the channels of a head; None for none.
    """

    heads: int
    qkv_bias: bool = True
    kernel_init: init.Initializer = init.trunc_normal(0.02)
    dtype: DTypeLike = jnp.float32
    out_init: init.Initializer | None = None
    scale: float | None = None
    head_width: int | None = None
    head_scale: str | None = None
    out_norm: Callable[..., nn.Module] | None = None
    qkv_norm: Callable[..., nn.Module] | None = None

    def __call__(self, x: Float[Array, 'b n d'], *, train: bool = False) -> Float[Array, 'b n d']:
        """Mixes the tokens, of any number and in any order."""
        del train
        return self.with_values(x, None)[0]

    @nn.compact
    def with_values(
        self, x: Float[Array, 'b n d'], mix: ValueMix | None
    ) -> tuple[Float[Array, 'b n d'], None, Float[Array, 'b n v']]:
        """Mixes the tokens with values that may come from the first block; see value_residual.py.

        Args:
            x: the tokens.
            mix: how the first block's values and this block's own are combined; None for its own alone.

        Returns:
            The mixed tokens, None (`Attention` keeps no state), and the values it used.
        """
        width, inner = x.shape[-1], inner_width(x.shape[-1], self.heads, self.head_width)
        own = mix is None or mix.has_own
        qkv = Dense((3 if own else 2) * inner, self.qkv_bias, self.kernel_init, self.dtype, name='qkv')(x)
        q, k, *rest = jnp.split(qkv, 3 if own else 2, axis=-1)
        v = rest[0] if mix is None else mix.values(*rest)[..., :inner]
        y = attend(*normed(self, *(split_heads(part, self.heads) for part in (q, k, v))), scale=self.scale)
        out = Dense(width, True, self.out_init or self.kernel_init, self.dtype, name='out')
        return leave(self, merge_heads(y), out), None, v


def normed(attention: nn.Module, *qkv: Float[Array, 'b _ n _']) -> Sequence[Float[Array, 'b _ n _']]:
    """Returns queries, keys and values, each normalized by a norm of its own if `attention` has a `qkv_norm`."""
    if attention.qkv_norm is None:
        return qkv
    return [attention.qkv_norm(dtype=attention.dtype, name=f'{name}_norm')(x) for name, x in zip('qkv', qkv)]


def leave(attention: nn.Module, y: Float[Array, 'b n v'], out: nn.Module) -> Float[Array, 'b n d']:
    """Returns the output of an attention whose heads, one after the other, answered `y`.

    Args:
        attention: bound, with these fields. `heads`; `head_scale`: the place of a learned number for each head, of
            `HEAD_SCALES`, or None; `out_norm`: factory of a norm of the result, or None; `dtype`.
        y: the answers.
        out: the last matrix.

    Raises:
        ValueError: there is no such place, or the heads do not divide the width behind the matrix.
    """
    place = attention.head_scale
    if place not in (None, *HEAD_SCALES):
        raise ValueError(f'head_scale is {place!r}: use one of {", ".join(HEAD_SCALES)}, or None.')
    y = _scaled_heads(attention, out(_scaled_heads(attention, y, place == 'heads')), place == 'out')
    return y if attention.out_norm is None else attention.out_norm(dtype=attention.dtype, name='out_norm')(y)


def _scaled_heads(attention: nn.Module, y: Float[Array, 'b n d'], wanted: bool) -> Float[Array, 'b n d']:
    if not wanted:
        return y
    scale = attention.param('head_scale', jax.nn.initializers.ones, (attention.heads,)).astype(y.dtype)
    return merge_heads(split_heads(y, attention.heads) * scale.reshape(1, -1, 1, 1))


def attend(
    q: Float[Array, 'b h n k'],
    k: Float[Array, 'b g m k'],
    v: Float[Array, 'b g m v'],
    *,
    scale: float | None = None,
    bias: Float[Array, '#b #h #n #m'] | None = None,
    mask: Bool[Array, '#b #h #n #m'] | None = None,
    causal: bool = False,
) -> Float[Array, 'b h n v']:
    """Returns ``softmax(scale * q k^T + bias) v`` over the tokens that are seen, by `kernels.attention`.

    Args:
        q, k, v: queries, keys and values; g heads of keys and values, each for h / g neighbouring heads of queries.
        scale: 1 / sqrt(K) by default.
        bias: added to the logits; dimensions of 1 are broadcast.
        mask: True where a query sees a key; all by default.
        causal: whether a query sees no key after itself.
    """
    how = {'scale': scale, 'bias': bias, 'mask': mask, 'causal': causal}
    if _watcher.get() is not None:
        w = weights(q, k, **how).astype(v.dtype)
        return w @ jnp.repeat(v, q.shape[1] // v.shape[1], axis=1)
    return attention(*(x.swapaxes(1, 2) for x in (q, k, v)), **how).swapaxes(1, 2)


def weights(
    q: Float[Array, 'b h n k'],
    k: Float[Array, 'b g m k'],
    *,
    scale: float | None = None,
    bias: Float[Array, '#b #h #n #m'] | None = None,
    mask: Bool[Array, '#b #h #n #m'] | None = None,
    causal: bool = False,
) -> Float[Array, 'b h n m']:
    """Returns ``softmax(scale * q k^T + bias)`` over the tokens that are seen, in float32; arguments as of `attend`."""
    how = {'scale': scale, 'bias': bias, 'mask': mask, 'causal': causal}
    return shown(attention_weights(*(x.swapaxes(1, 2) for x in (q, k)), **how))


_watcher: contextvars.ContextVar[Callable[[Array], None] | None] = contextvars.ContextVar('watcher', default=None)


@contextlib.contextmanager
def watching(see: Callable[[Array], None]) -> Iterator[None]:
    """Calls `see` with the weights (B, H, N, M) of each attention layer that is traced inside, in their order."""
    before = _watcher.set(see)
    try:
        yield
    finally:
        _watcher.reset(before)


def shown(weights: Float[Array, 'b h n m']) -> Float[Array, 'b h n m']:
    """Returns `weights`, which whoever is `watching` gets to see."""
    see = _watcher.get()
    if see is not None:
        see(weights)
    return weights


def inner_width(width: int, heads: int, head_width: int | None) -> int:
    """Returns the channels of all heads together, by default the width."""
    return width if head_width is None else heads * head_width


def split_heads(x: Float[Array, 'b n d'], heads: int) -> Float[Array, 'b h n k']:
    """Splits the last axis into heads, the second axis of the result.

    Raises:
        ValueError: the heads do not divide the width.
    """
    if x.shape[-1] % heads:
        raise ValueError(f'width {x.shape[-1]} does not divide into {heads} heads: change width or heads.')
    return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)


def merge_heads(x: Float[Array, 'b h n k']) -> Float[Array, 'b n d']:
    """Undoes `split_heads`."""
    return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)
