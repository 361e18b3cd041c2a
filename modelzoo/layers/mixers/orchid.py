"""Orchid: gates around a convolution as long as the sequence, whose kernel a small network makes of the sequence.

Karami and Ghodsi, 2024, "Orchid: Flexible and Data-Dependent Convolution for Sequence Modeling",
https://arxiv.org/abs/2402.18508. Reference: https://github.com/Karami-m/orchid (MIT), commit 061f6df,
orchid_standalone; read for facts, no code was taken.

    x0, x1, v = short_conv(in(x))    y = out(x0 * conv_h(x1 * v) + conv_r(x))

h is an implicit kernel, as Hyena's, plus what the conditioning network makes of v before the short convolution; r is
another implicit kernel. The network is one convolution over time, a transform along time, an absolute value or the
product of two such transforms, and one convolution over frequencies:

    magnitude (type I): conv(|F conv(v)|)        correlation (type II): conv(conj(F conv(v)) * F conv(v))

None of these absolute values and products changes when the sequence is rolled, so in the paper y rolls with x. The
published code is another matter; `exact` is the paper's form, and the default is the code's:
  * with the Fourier transform the absolute value is a power, of a transform of twice the length of which the kernel is
    cut, both padded with zeros; its scaling leaves 1 / length in all convolutions; correlations fail there;
  * with the orthonormal cosine transform, which is recommended, products of spectra are no convolution, circular or
    other, and nothing rolls with x.
Where we differ: one head, and the kernels of a batch are not multiplied with each other's sequences, as the reference
does for the magnitude of more than one sequence. The whole sequence is seen, so there is no decoding.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from longview.kernels.long_conv import long_conv
from longview.modelzoo.layers.frame import init
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.mixers.hyena import ImplicitKernel
from longview.modelzoo.layers.mixers.mixer import Mixer
from longview.modelzoo.layers.norms.norm import LayerNorm

KINDS = ('magnitude', 'correlation')
TRANSFORMS = ('dct', 'fft')


class ChannelConv(nn.Module):
    """A convolution over the sequence for groups of channels, padded to keep the length.

    Attributes:
        taps: odd length of the kernels.
        inputs, outputs: channels of each group.
        circular: whether the sequence goes on with its other end, not with zeros.
        causal: whether an element sees those before it alone.
    """

    taps: int
    inputs: int = 1
    outputs: int = 1
    circular: bool = False
    causal: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, 'b t d']) -> Float[Array, 'b t e']:
        """Returns a sequence of the same length."""
        groups = x.shape[-1] // self.inputs
        initial = init.uniform_fan_in(self.taps * self.inputs)
        kernel = self.param('kernel', initial, (self.taps, self.inputs, groups * self.outputs))
        bias = self.param('bias', initial, (groups * self.outputs,))
        before = self.taps - 1 if self.causal else self.taps // 2
        around = [(0, 0), (before, self.taps - 1 - before), (0, 0)]
        x = jnp.pad(x.astype(jnp.float32), around, 'wrap' if self.circular else 'constant')
        y = lax.conv_general_dilated(
            x, kernel, (1,), 'VALID', dimension_numbers=('NTC', 'TIO', 'NTC'), feature_group_count=groups
        )
        return y + bias[None, None]


class Orchid(Mixer):
    """The operator; as the mixer of a transformer it needs tokens in the order of a sequence, and no others.

    Attributes:
        places: length of the longest sequence.
        kind: 'magnitude' or 'correlation', see above; None for a kernel that does not depend on the sequence.
        transform: 'dct' or 'fft'.
        exact: whether the kernel of a rolled sequence is the same, for 'fft'.
        hidden, features, inner, frequency: of both implicit kernels; see `hyena.ImplicitKernel`.
        taps: of the short convolution.
        window: taps of the convolutions of the conditioning network.
        dtype: compute type of the first and last matrix; all else is float32.
        heads: unused, for the signature that the mixers of a ViT share.
    """

    places: int = 1024
    kind: str | None = 'magnitude'
    transform: str = 'dct'
    exact: bool = False
    hidden: int = 64
    features: int = 3
    inner: int = 2
    frequency: float = 1.0
    taps: int = 3
    window: int = 3
    dtype: DTypeLike = jnp.float32
    heads: int = 1

    @property
    def longest(self) -> int | None:
        """The length of the longest sequence."""
        return self.places

    def init_state(self, batch: int, width: int) -> None:
        """Refuses.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            'Orchid makes its kernel of the whole sequence, so it cannot read element by element: use it as an encoder.'
        )

    @nn.compact
    def _mix(self, x: Float[Array, 'b t d'], state: None) -> tuple[Float[Array, 'b t d'], None]:
        self._check(x.shape[1])
        width, length = x.shape[-1], x.shape[1]
        dense = functools.partial(Dense, use_bias=True, kernel_init=init.uniform_fan_in(width), dtype=self.dtype)
        u = dense(3 * width, name='in')(x)
        made = None if self.kind is None else self._made(u[..., -width:].astype(jnp.float32))
        u = ChannelConv(self.taps, circular=self.exact, causal=True, name='conv')(u)
        first, second, v = jnp.split(u, 3, axis=-1)
        fixed, skip = self._static(width, length, '')
        y = first * self._convolved(v * second, fixed, made, skip)
        y = y + self._convolved(x.astype(jnp.float32), *self._residual(width, length))
        return dense(width, name='out')(y), state

    def _static(self, width: int, length: int, prefix: str) -> tuple[Float[Array, 't d'], Float[Array, ' d']]:
        """Returns the taps of an implicit kernel, and the weight of the sequence itself."""
        network = (self.hidden, self.features, self.inner, self.frequency)
        taps = ImplicitKernel(width, self.places, *network, name=f'{prefix}filter')()
        return taps[:length], self.param(f'{prefix}bias', jax.nn.initializers.normal(1.0), (width,))

    def _residual(self, width: int, length: int) -> tuple[Array, None, Array]:
        taps, skip = self._static(width, length, 'residual_')
        return taps, None, skip

    def _convolved(
        self, u: Float[Array, 'b t d'], taps: Float[Array, 't d'], made: Array | None, skip: Float[Array, ' d']
    ) -> Float[Array, 'b t d']:
        """Returns the sequence convolved with its kernel: fixed taps and what was made, as `_made` returns it."""
        if self.transform == 'dct':
            spectrum = _dct(taps[None]) + (0 if made is None else made)
            return _idct(_dct(u) * spectrum) + u * skip[None, None]
        taps = taps if made is None else taps[None] + made
        scale = 1 if self.exact else 1 / u.shape[1]
        return long_conv(u, taps * scale, circular=True, skip=skip)

    def _made(self, v: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
        """Returns what the conditioning network makes of a sequence: a spectrum for 'dct', taps for 'fft'."""
        conv = functools.partial(ChannelConv, self.window, circular=self.exact)
        over_time = lambda name: LayerNorm(name=f'{name}_norm')(conv(name=name)(v))
        parts = [over_time(name) for name in (('time',) if self.kind == 'magnitude' else ('key', 'query'))]
        norm, over = LayerNorm(name='frequency_norm'), functools.partial(ChannelConv, self.window, name='frequency')
        if self.transform == 'dct':
            return norm(over()(self._compared([_dct(part) for part in parts])))
        length, size = v.shape[1], v.shape[1] * (1 if self.exact else 2)
        norm_of = 'ortho' if self.exact else 'forward'
        spectrum = self._compared([jnp.fft.rfft(part, size, axis=1, norm=norm_of) for part in parts])
        if self.kind == 'magnitude':
            spectrum = norm(over(outputs=2)(spectrum))
        else:
            pairs = jnp.stack([spectrum.real, spectrum.imag], axis=-1).reshape(*spectrum.shape[:2], -1)
            spectrum = norm(over(inputs=2, outputs=2)(pairs))
        spectrum = lax.complex(spectrum[..., 0::2], spectrum[..., 1::2])
        return jnp.fft.irfft(spectrum, size, axis=1, norm=norm_of)[:, :length]

    def _compared(self, spectra: list[Array]) -> Array:
        """Returns what of the spectra does not change when the sequence is rolled."""
        if self.kind == 'correlation':
            key, query = spectra
            return key.conj() * query
        (spectrum,) = spectra
        if jnp.iscomplexobj(spectrum) and not self.exact:
            return jnp.square(spectrum.real) + jnp.square(spectrum.imag)
        return jnp.abs(spectrum)

    def _check(self, length: int) -> None:
        if self.kind not in (*KINDS, None) or self.transform not in TRANSFORMS:
            raise ValueError(
                f'Orchid has kind={self.kind!r} and transform={self.transform!r}: use one of {", ".join(KINDS)} or '
                f'None, and one of {", ".join(TRANSFORMS)}.'
            )
        if self.exact and self.transform == 'dct':
            raise ValueError("Orchid with exact=True needs circular convolutions: use transform='fft'.")
        if self.kind == 'correlation' and self.transform == 'fft' and not self.exact:
            raise ValueError(
                "Orchid's published code has no correlation of Fourier transforms: use exact=True, or transform='dct'."
            )
        if length > self.places:
            raise ValueError(
                f'a sequence of {length} is longer than the {self.places} places that Orchid has positions for: set '
                'places.'
            )


def _dct(x: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
    return jax.scipy.fft.dct(x, norm='ortho', axis=1)


def _idct(x: Float[Array, 'b t d']) -> Float[Array, 'b t d']:
    return jax.scipy.fft.idct(x, norm='ortho', axis=1)


# Published names of the operator's parameters, and ours; see weights.py.
_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_FILTERS = (('fixed_conv', ''), ('fixed_conv_res', 'residual_'))
_CONVS = (
    ('model', 'time'),
    ('model2', 'frequency'),
    ('model_k', 'key'),
    ('model_q', 'query'),
    ('model_frq', 'frequency'),
)
NAMES = (
    *((f'{name}_linear.{a}', f'{name}/{b}') for name in ('in', 'out') for a, b in _AFFINE),
    *((f'conv1d_short.{a}', f'conv/{b}') for a, b in _AFFINE),
    *((f'{there}.bias', f'{here}bias') for there, here in _FILTERS),
    *((f'{there}.pos_emb.z', f'{here}filter/positions') for there, here in _FILTERS),
    *((f'{there}.{name}', '') for there, _ in _FILTERS for name in ('pos_emb.t', 'modulation.deltas')),
    *((f'{there}.implicit_filter.1.freq', f'{here}filter/frequencies') for there, here in _FILTERS),
    *(
        (f'{there}.implicit_filter.{2 * index}.{a}', f'{here}filter/linear{index}/{b}')
        for there, here in _FILTERS
        for index in range(8)
        for a, b in _AFFINE
    ),
    *((f'conv_kernel_nn.nn_{there}.conv1d_ls.0.{a}', f'{here}/{b}') for there, here in _CONVS for a, b in _AFFINE),
    *(
        (f'conv_kernel_nn.nn_{there}.norm_ls.0.{a}', f'{here}_norm/{b}')
        for there, here in _CONVS
        for a, b in (('weight', 'scale'), ('bias', 'bias'))
    ),
)
