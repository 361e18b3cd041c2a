"""Makes the equivalent network with RMSNorm, or with CRMSNorm and one channel less, of a trained one with LayerNorm.

    network, variables = pre_rms(network, variables)   # the same parameters, centered
    network, variables = pre_crms(network, variables)  # a stream of one channel less, norms without parameters

Jiang et al., 2023, "Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers",
https://arxiv.org/abs/2305.14858. Reference: https://github.com/ZixuanJiang/pre-rmsnorm-transformer (MIT) at 025d43a,
example.py, read for facts. The logits are those of the network, but for rounding; layers/norms/zero_mean.py says why.
Where we differ: norms there have neither scale nor bias. Here `RMSNorm` keeps both, and `CRMSNorm`'s go into the
matrices behind it; so of a compressed network the features ``tokens`` and ``pooled`` are others, and one narrower.
"""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array, Float

from longview.modelzoo.heads import Classifier, LanguageHead, Linear, TwoHeads
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.mlp import GatedMlp, Mlp, SwiGLU
from longview.modelzoo.layers.mixers.causal_attention import CachedAttention, CausalAttention
from longview.modelzoo.layers.mixers.mixer import Block
from longview.modelzoo.layers.norms.norm import LayerNorm, RMSNorm
from longview.modelzoo.layers.norms.zero_mean import WRITES, CRMSNorm, centered, centered_writes
from longview.modelzoo.layers.residuals.residual import Add

# The matrix behind each norm of a block.
_READS = {'mixer_norm': 'mixer/qkv', 'mlp_norm': 'mlp/up'}


class _Parts(NamedTuple):
    """The layers of a block."""

    norm: nn.Module
    mixer: nn.Module
    mlp: nn.Module | None


def pre_rms(network: Classifier, variables: Mapping[str, Any]) -> tuple[Classifier, dict[str, Any]]:
    """Returns the network with RMSNorm that gives the same features, and its variables.

    Args:
        network: a `Classifier` of a ViT or of the sequence trunk: `LayerNorm` before each branch and behind the last
            one, plain sums, any attention that ends in a matrix ``out``, any feed-forward layer that ends in ``down``.
        variables: ``{'params': ...}``.

    Raises:
        ValueError: the network is not of this kind.
    """
    backbone = network.backbone
    parts = _parts(backbone, (Attention, CachedAttention), (Mlp, SwiGLU, GatedMlp))
    norm = functools.partial(RMSNorm, epsilon=parts.norm.epsilon, affine=parts.norm.affine, use_bias=parts.norm.affine)
    fields = _norms(backbone, norm)
    if getattr(backbone, 'fixed_positions', None) is not None:
        fields['fixed_positions'] = functools.partial(_centered_positions, backbone.fixed_positions)
    params = centered_writes(variables['params'])
    return network.clone(backbone=backbone.clone(**fields)), {**variables, 'params': params}


def pre_crms(network: Classifier, variables: Mapping[str, Any]) -> tuple[Classifier, dict[str, Any]]:
    """Returns the network with CRMSNorm and one channel less that gives the same logits, and its variables.

    Args:
        network: as of `pre_rms`, with `Attention` or `CausalAttention` and `Mlp`.
        variables: ``{'params': ...}``, arrays with values.

    Raises:
        ValueError: the network is not of this kind, or a norm has a bias and the matrix behind it has none.
    """
    if not isinstance(network.head, (Linear, TwoHeads, LanguageHead)):
        raise ValueError(
            f'the head is {type(network.head).__name__}: only one whose matrices read the features is known.'
        )
    backbone = network.backbone
    norm, mixer, mlp = _parts(backbone, (Attention, CausalAttention), (Mlp,))
    width, heads = backbone.width, getattr(backbone, 'heads', mixer.heads)
    fields = _norms(backbone, functools.partial(CRMSNorm, epsilon=norm.epsilon))
    fields |= {
        'width': width - 1,
        'mixer': functools.partial(backbone.mixer, head_width=mixer.head_width or width // heads),
    }
    if mlp is not None:
        fields['mlp'] = functools.partial(backbone.mlp, hidden=mlp.hidden or int(width * mlp.ratio))
    if getattr(backbone, 'fixed_positions', None) is not None:
        fields['fixed_positions'] = functools.partial(_compressed_positions, backbone.fixed_positions)
    params = _compressed(traverse_util.flatten_dict(variables['params'], sep='/'))
    params = traverse_util.unflatten_dict(params, sep='/')
    return network.clone(backbone=backbone.clone(**fields)), {**variables, 'params': params}


def _compressed(params: dict[str, Array]) -> dict[str, Array]:
    """Returns parameters by path: writes without their last channel, norms in the matrices behind them."""
    whole, narrow = params, centered_writes(params)
    changed = {path: narrow[path][..., :-1] for path in params if narrow[path] is not whole[path]}
    for norm, readers in _norms_and_readers(params).items():
        scale, bias = params.pop(f'{norm}/scale', None), params.pop(f'{norm}/bias', None)
        for reader in readers:
            changed |= _folded(reader, {**params, **changed}, scale, bias)
    return {**params, **changed}


def _norms_and_readers(params: Mapping[str, Array]) -> dict[str, list[str]]:
    """Returns the paths of the norms, each with the paths of the matrices that read what it returns."""
    kernels = [path.removesuffix('/kernel') for path in params if path.endswith('kernel')]
    blocks = sorted({path.split('/')[1] for path in kernels if path.startswith('backbone/block')})
    found = {
        f'backbone/{block}/{norm}': [f'backbone/{block}/{reader}']
        for block in blocks
        for norm, reader in _READS.items()
        if f'backbone/{block}/{reader}' in kernels
    }
    return {**found, 'backbone/norm': [path for path in kernels if path.startswith('head')]}


def _folded(
    reader: str, params: Mapping[str, Array], scale: Float[Array, ' d'] | None, bias: Float[Array, ' d'] | None
) -> dict[str, Array]:
    """Returns the matrix and bias at `reader` that do to d - 1 channels what they did to d, scaled and shifted."""
    kernel = params[f'{reader}/kernel']
    scaled = kernel if scale is None else scale[:, None] * kernel
    found = {f'{reader}/kernel': scaled[:-1] - scaled[-1:]}
    if f'{reader}/bias' in params:
        found[f'{reader}/bias'] = params[f'{reader}/bias'] + (0.0 if bias is None else bias @ kernel)
    elif bias is not None and jnp.any(bias):
        raise ValueError(
            f'{reader} has no bias to take up that of the norm before it: give it one, or convert with pre_rms.'
        )
    return found


def _parts(backbone: nn.Module, mixers: Sequence[type], mlps: Sequence[type]) -> _Parts:
    """Returns the layers of a block, and refuses other networks."""
    name = type(backbone).__name__
    if any(not hasattr(backbone, field) for field in ('norm', 'mixer', 'mlp', 'residual', 'block', 'first_block')):
        raise ValueError(f'{name} is neither a ViT nor the sequence trunk, whose streams can be centered.')
    if not (callable(backbone.mixer) and (backbone.mlp is None or callable(backbone.mlp))):
        raise ValueError(f'{name} has blocks with different parts: give all of them one mixer and one mlp.')
    parts = _Parts(*(part and part(parent=None) for part in _factories(backbone)))
    for part, wanted in zip(parts, ((LayerNorm,), mixers, (*mlps, type(None)))):
        if not isinstance(part, tuple(wanted)):
            allowed = ' or '.join(kind.__name__ for kind in wanted if kind is not type(None))
            raise ValueError(f'{name} has {type(part).__name__} in its blocks where {allowed} is wanted.')
    _check_stream(backbone, parts.norm, parts.mixer)
    return parts


def _check_stream(backbone: nn.Module, norm: nn.Module, mixer: nn.Module) -> None:
    """Raises where the stream is read or written otherwise than by norms and sums."""
    name = type(backbone).__name__
    last = getattr(backbone, 'last_norm', backbone.norm)
    if last is None or last() != norm:
        raise ValueError(f'the last norm of {name} is not that of its blocks: make them the same LayerNorm.')
    if not isinstance(backbone.residual(parent=None), Add):
        raise ValueError(
            f'{name} has other connections than plain sums, which do not keep the mean over channels at 0.'
        )
    if backbone.block not in (PreNorm, Block) or backbone.first_block is not None:
        raise ValueError(f'{name} has blocks that do not read their stream through norms alone: use the usual block.')
    if getattr(mixer, 'out_norm', None) is not None or getattr(mixer, 'head_scale', None) == 'out':
        raise ValueError(f'{type(mixer).__name__} of {name} changes what its last matrix writes: leave that out.')
    unknown = [token for token in getattr(backbone, 'prefix', ()) if not re.fullmatch(WRITES, token)]
    if unknown:
        raise ValueError(
            f'{name} has the learned tokens {", ".join(unknown)}, which are not known to be centered: call them '
            'cls_token or dist_token.'
        )
    for field, wanted in (('first_norm', False), ('pre_norm', True), ('tied', False)):
        found = getattr(backbone, field, wanted)
        if found != wanted:
            raise ValueError(f'{name}.{field} is {found}: only a network with {field}={wanted} can be centered.')


def _factories(backbone: nn.Module) -> tuple[Any, ...]:
    heads = {'heads': backbone.heads} if hasattr(backbone, 'heads') else {}
    return backbone.norm, functools.partial(backbone.mixer, **heads), backbone.mlp


def _norms(backbone: nn.Module, norm: Any) -> dict[str, Any]:
    return {'norm': norm} | ({'last_norm': norm} if 'last_norm' in type(backbone).__dataclass_fields__ else {})


def _centered_positions(positions: Any, grid: tuple[int, int], width: int) -> Float[Array, '1 n d']:
    return centered(jnp.asarray(positions(grid, width)))


def _compressed_positions(positions: Any, grid: tuple[int, int], width: int) -> Float[Array, '1 n d']:
    return _centered_positions(positions, grid, width + 1)[..., :-1]
