"""What stands around our parts in goldens that are no network or layer of ours: small networks, single kernels."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from longview.kernels.gla import gla
from longview.kernels.long_conv import long_conv
from longview.methods.generate.process import Preconditioned, Sigmas
from longview.methods.ssl import masked
from longview.modelzoo.denoisers.edm import UNet
from longview.modelzoo.heads import Classifier
from longview.modelzoo.heads.detect import Towers
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.convolutions import tvconv as layers_tvconv
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.dense.fpn import Fpn
from longview.modelzoo.layers.frame import pyramid, trunk
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.mlp import Mlp, SwiGLU
from longview.modelzoo.layers.frame.patch import Patches
from longview.modelzoo.layers.frame.pool import global_mean
from longview.modelzoo.layers.mixers import mixer as mixers
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.layers.mixers.hybrid_norm import HybridBlock
from longview.modelzoo.layers.norms import zero_mean
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.norm import LayerNorm, NoNorm, RMSNorm
from longview.modelzoo.layers.residuals.frac_connections import FracConnections
from longview.modelzoo.layers.residuals.hyper_connections import HyperConnections
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.normformer import ResScale
from longview.modelzoo.layers.residuals.orthogonal import Orthogonal
from longview.modelzoo.layers.residuals.residual import Add, Single, along
from longview.modelzoo.layers.residuals.rezero import ReZero
from longview.modelzoo.sequence.trunk import Trunk
from longview.modelzoo.vision import (
    coatnet,
    duoformer,
    glnet,
    hiera,
    lsnet,
    maxvit,
    moat,
    ninformer,
    poincare_resnet,
    sret,
    svt,
    transnext,
    tvconv,
    vit,
)
from longview.modelzoo.vision.ci2p_vit import Patches as EncodedPatches
from longview.modelzoo.vision.vit import ViT


class Direction(nn.Module):
    """A layer normalization without scale and bias."""

    dtype: jnp.dtype = jnp.float32

    def __call__(self, x):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-6)


class Stack(nn.Module):
    """Blocks on vectors, and a norm; `batch` is the axis of the examples."""

    residual: Callable[..., nn.Module]
    depth: int
    heads: int
    mlp: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] = LayerNorm
    last_norm: bool = True
    batch: int = 0

    @nn.compact
    def __call__(self, x):
        x, join = jnp.moveaxis(x, self.batch, 0), self.residual(name='join')
        mixer, s = functools.partial(Attention, heads=self.heads), join.open(x)
        for name, residual in zip(trunk.names(self.depth), along(self.residual, self.depth)):
            s = PreNorm(self.norm, mixer, self.mlp, residual, name=name)(s, None)
        x = jnp.moveaxis(join.close(s), 0, self.batch)
        return self.norm(name='norm')(x) if self.last_norm else x


class ClipVision(nn.Module):
    """CLIP's image tower and its matrix; the result is not normalized."""

    @nn.compact
    def __call__(self, x):
        tower = vit.VARIANTS['vit_base_patch16_clip_quickgelu_224']
        backbone = tower.clone(width=128, depth=4, heads=4, image_size=112, parent=self, name='backbone')
        return Dense(64, use_bias=False, name='projection')(backbone(x)['pooled'])


def clip_vision_names():
    return (*vit.TRANSFORMERS_CLIP, ('visual_projection.weight', 'projection/kernel'))


class FaceEmbedding(nn.Module):
    """TVConv's smallest network without a classifier."""

    @nn.compact
    def __call__(self, x):
        backbone = tvconv.VARIANTS['tvconv_mobilenet_v2_x0_1']
        return backbone.clone(parent=self, name='backbone')(x)['pooled']


# The fill rule takes the scales of norms over whole maps for matrices; in goldens they have another name.
def tvconv_names():
    return tuple(layers_tvconv.names('', '', 1, 'input'))


def face_embedding_names():
    return tvconv.published_names(tvconv.MobileNetV2(), 'input')


class NiNformerBlocks(nn.Module):
    """The blocks of a NiNformer on tokens."""

    @nn.compact
    def __call__(self, x):
        for name in trunk.names(4):
            x = ninformer.Block(name=name)(x)
        return x


class HieraBlocks(nn.Module):
    """The first three stages of Hiera-T on tokens that are in units; each 8th channel is the result."""

    @nn.compact
    def __call__(self, x):
        backbone, s = hiera.VARIANTS['hiera_tiny_224'], x.reshape(len(x), 64, -1, 96).swapaxes(1, 2)
        places = [(stage, index) for stage in range(3) for index in range(backbone.depths[stage])][:6]
        for name, place in zip(trunk.names(6), places):
            s = backbone._block(*place)(parent=self, name=name)(s, None)
        return s.swapaxes(1, 2).reshape(len(x), -1, s.shape[-1])[:, :, ::8]


def hiera_block_names():
    return tuple((f'{{i}}.{there}', f'block{{i:02d}}/{here}') for there, here in hiera.BLOCK_NAMES)


class OrthoViT(nn.Module):
    """Patches with positions behind a class token without; a norm and a matrix read it."""

    @nn.compact
    def __call__(self, x):
        x = Patches(96, 4, name='stem')(x).reshape(len(x), -1, 96)
        x = x + self.param('pos_embed', nn.initializers.zeros, (1, 64, 96))
        token = self.param('cls_token', nn.initializers.zeros, (1, 1, 96))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, 96)), x], axis=1)
        mlp = functools.partial(Mlp, activation=nn.gelu)
        x = Stack(Orthogonal, 3, 3, mlp, Direction, last_norm=False, name='blocks')(x)
        return Dense(10, name='head')(LayerNorm(name='norm')(x[:, 0]))


class ZeroMeanViT(nn.Module):
    """Patches with positions behind a class token without; norms have no parameters, and a matrix reads the token."""

    norm: Callable[..., nn.Module]
    width: int = 64

    @nn.compact
    def __call__(self, x):
        x = x.reshape(len(x), 4, 8, 4, 8, 3).swapaxes(2, 3).reshape(len(x), 16, 192)
        x = Dense(self.width, name='stem')(x) + self.param('pos_embed', nn.initializers.zeros, (1, 16, self.width))
        token = self.param('cls_token', nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        mixer, mlp = functools.partial(Attention, 4, head_width=16), functools.partial(Mlp, hidden=256)
        for name in trunk.names(3):
            x = PreNorm(self.norm, mixer, mlp, Add, name=name)(x, None)
        return Dense(10, name='head')(self.norm(name='norm')(x[:, 0]))


def pre_ln_vit() -> ZeroMeanViT:
    return ZeroMeanViT(functools.partial(LayerNorm, affine=False))


class PreRmsViT(nn.Module):
    """The same with parameters that are centered each time that they are used."""

    @nn.compact
    def __call__(self, x):
        norm = functools.partial(RMSNorm, epsilon=1e-5, affine=False)
        init = self.is_initializing()
        return nn.map_variables(ZeroMeanViT, 'params', zero_mean.centered_writes, init=init)(norm, name='vit')(x)


def pre_crms_vit() -> ZeroMeanViT:
    return ZeroMeanViT(zero_mean.CRMSNorm, 63)


def zero_mean_vit_names(prefix: str = '') -> tuple[tuple[str, str], ...]:
    there, here = 'transformer.layers.{i}.', f'{prefix}block{{i:02d}}/'
    parts = (('1.to_qkv', 'mixer/qkv'), ('1.to_out', 'mixer/out'), ('3.net.0', 'mlp/up'), ('3.net.2', 'mlp/down'))
    return (
        ('pos_embedding', f'{prefix}pos_embed'),
        ('cls_token', f'{prefix}cls_token'),
        *((f'to_patch_embedding.1.{a}', f'{prefix}stem/{b}') for a, b in _AFFINE),
        *((f'{there}{a}.{c}', f'{here}{b}/{d}') for a, b in parts for c, d in _AFFINE),
        *((f'mlp_head.1.{a}', f'{prefix}head/{b}') for a, b in _AFFINE),
    )


class NormFormerDecoder(nn.Module):
    """Causal blocks with all of NormFormer's parts, and a norm; examples are the second axis."""

    @nn.compact
    def __call__(self, x):
        x = x.swapaxes(0, 1)
        mixer = functools.partial(CausalAttention, 4, head_scale='out', out_norm=LayerNorm)
        mlp = functools.partial(Mlp, ratio=2, hidden_norm=LayerNorm)
        for name in trunk.names(3):
            x = mixers.Block(LayerNorm, mixer, mlp, ResScale, name=name)(x, None)
        return LayerNorm(name='norm')(x).swapaxes(0, 1)


def normformer_names() -> tuple[tuple[str, str], ...]:
    there, here = 'layers.{i}.', 'block{i:02d}/'
    norms = (
        ('self_attn_layer_norm', 'mixer_norm'),
        ('attn_ln', 'mixer/out_norm'),
        ('final_layer_norm', 'mlp_norm'),
        ('ffn_layernorm', 'mlp/hidden_norm'),
    )
    parts = (('self_attn.out_proj', 'mixer/out'), ('fc1', 'mlp/up'), ('fc2', 'mlp/down'))
    return (
        (f'{there}c_attn', f'{here}mixer/head_scale'),
        (f'{there}w_resid', f'{here}mlp_residual/scale'),
        *(
            (f'{there}self_attn.{n}_proj.{a}', f'{here}mixer/qkv/{b}:{k}')
            for k, n in enumerate('qkv')
            for a, b in _AFFINE
        ),
        *((f'{there}{a}.{c}', f'{here}{b}/{d}') for a, b in parts for c, d in _AFFINE),
        *((f'{there}{a}.{c}', f'{here}{b}/{d}') for a, b in norms for c, d in _SCALED),
        *((f'norm.{a}', f'norm/{b}') for a, b in _SCALED),
    )


def hybrid_norm_lm() -> Trunk:
    """A language model of OLMo's parts in HybridNorm's blocks."""
    norm = functools.partial(RMSNorm, epsilon=1e-5)
    mixer = functools.partial(CausalAttention, 4, use_bias=False, kv_heads=2, qkv_norm=norm, rotary=5e5)
    mlp = functools.partial(SwiGLU, 3, 1, gate_first=False)
    return Trunk(64, 3, mixer, mlp, norm, norm, vocabulary=128, tied=True, block=HybridBlock)


def hybrid_norm_names() -> tuple[tuple[str, str], ...]:
    there, here = 'transformer.blocks.{i}.', 'backbone/block{i:02d}/'
    norms = (*((f'{n}_norm', f'mixer/{n}_norm') for n in 'qkv'), ('ff_norm', 'mlp_norm'))
    parts = (('att_proj', 'mixer/qkv'), ('attn_out', 'mixer/out'), ('ff_proj', 'mlp/up'), ('ff_out', 'mlp/down'))
    return (
        ('transformer.wte.weight', 'backbone/stem/table'),
        ('transformer.ln_f.weight', 'backbone/norm/scale'),
        *((f'{there}{a}.weight', f'{here}{b}/kernel') for a, b in parts),
        *((f'{there}{a}.weight', f'{here}{b}/scale') for a, b in norms),
    )


class PreActivation(nn.Module):
    """Norm, rectifier and a convolution with bias, twice; a projection of the map itself where the shape changes."""

    features: int
    stride: int
    residual: Callable[..., Single]

    @nn.compact
    def __call__(self, s, mask, *, train=False):
        join = self.residual(name='residual')
        y = nn.relu(BatchNorm(name='norm1')(join.read(s), train=train))
        y = Conv(self.features, 3, self.stride, 1, name='conv1')(y)
        y = Conv(self.features, 3, 1, 1, name='conv2')(nn.relu(BatchNorm(name='norm2')(y, train=train)))
        if y.shape != s.shape:
            s = join.carry(s, Conv(self.features, 1, self.stride, name='shortcut'))
        return join.write(s, y)


class OrthoResNet(nn.Module):
    """Eighteen layers, nothing between the last block and the mean."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(BatchNorm(name='stem_norm')(Conv(64, 3, 1, 1, name='stem')(x)))
        stages = pyramid.connected(pyramid.halving(PreActivation, (64, 128, 256, 512), (2,) * 4), Orthogonal)
        maps = pyramid.run(self, x, stages, drop_path=0.0, remat=False, train=False, residual=Orthogonal)
        return Dense(10, name='head')(global_mean(maps[-1]))


def rezero() -> Stack:
    mlp = functools.partial(Mlp, ratio=2, activation=nn.relu)
    return Stack(ReZero, 3, 4, mlp, NoNorm, last_norm=False, batch=1)


def hyper() -> Stack:
    return Stack(HyperConnections, 2, 4, functools.partial(Mlp, ratio=2))


def frac() -> Stack:
    return Stack(functools.partial(FracConnections, across=True), 2, 4, functools.partial(Mlp, ratio=2))


_AFFINE = (('weight', 'kernel'), ('bias', 'bias'))
_SCALED = (('weight', 'scale'), ('bias', 'bias'))
_STATISTICS = (*_SCALED, ('running_mean', 'mean'), ('running_var', 'var'))


def rezero_names() -> tuple[tuple[str, str], ...]:
    there, here = 'layers.{i}.', 'block{i:02d}/'
    return (
        (there + 'resweight', here + 'residual/scale'),
        *((f'{there}self_attn.in_proj_{a}', f'{here}mixer/qkv/{b}') for a, b in _AFFINE),
        *((f'{there}self_attn.out_proj.{a}', f'{here}mixer/out/{b}') for a, b in _AFFINE),
        *(
            (f'{there}linear{k}.{a}', f'{here}mlp/{name}/{b}')
            for k, name in ((1, 'up'), (2, 'down'))
            for a, b in _AFFINE
        ),
    )


def hyper_names() -> tuple[tuple[str, str], ...]:
    found = [(f'norm.{a}', f'norm/{b}') for a, b in _SCALED]
    for layer in range(4):
        branch, there, block = ('mixer', 'mlp')[layer % 2], f'layers.{layer}.', f'block{layer // 2:02d}/'
        found += [
            (f'{there}{kind}_{name}', f'{block}{branch}_residual/{kind}_{name.replace("fn", "kernel")}')
            for kind, names in (
                ('static', ('alpha', 'beta')),
                ('dynamic', ('alpha_fn', 'alpha_scale', 'beta_fn', 'beta_scale')),
            )
            for name in names
        ]
        found += [(f'{there}norm.gamma', f'{block}{branch}_residual/norm_scale')]
        found += [(f'{there}branch.norm.{a}', f'{block}{branch}_norm/{b}') for a, b in _SCALED]
        parts = (
            {'attn.in_proj_': 'mixer/qkv', 'attn.out_proj.': 'mixer/out'}
            if layer % 2 == 0
            else {'fc1.': 'mlp/up', 'fc2.': 'mlp/down'}
        )
        found += [(f'{there}branch.{a}{c}', f'{block}{b}/{d}') for a, b in parts.items() for c, d in _AFFINE]
    return tuple(found)


def ortho_vit_names() -> tuple[tuple[str, str], ...]:
    there, here = 'blocks.{i}.', 'blocks/block{i:02d}/'
    parts = (('attn.qkv', 'mixer/qkv'), ('attn.proj', 'mixer/out'), ('mlp.fc1', 'mlp/up'), ('mlp.fc2', 'mlp/down'))
    return (
        ('cls_token', 'cls_token'),
        ('pos_embed', 'pos_embed'),
        *((f'patchify.{a}', f'stem/{b}') for a, b in _AFFINE),
        *((f'{there}{a}.{c}', f'{here}{b}/{d}') for a, b in parts for c, d in _AFFINE),
        *((f'classifier.0.{a}', f'norm/{b}') for a, b in _SCALED),
        *((f'classifier.1.{a}', f'head/{b}') for a, b in _AFFINE),
    )


def preact_resnet_names() -> tuple[tuple[str, str], ...]:
    found = [('conv.weight', 'backbone/stem/conv/kernel'), *((f'fc.{a}', f'head/{b}') for a, b in _AFFINE)]
    for stage in range(3):
        there, here = f'stage{stage + 1}.{{i}}.', f'backbone/stage{stage}/block{{i:02d}}/'
        found += [(f'{there}conv{{k}}.weight', f'{here}conv{{k}}/kernel')]
        found += [(f'{there}shortcut.weight', f'{here}shortcut/kernel')]
        found += [(f'{there}bn{{k}}.{a}', f'{here}norm{{k}}/{b}') for a, b in _STATISTICS]
    return (*found, *((f'bn.{a}', f'backbone/norm/{b}') for a, b in _STATISTICS))


def lsnet_names() -> tuple[tuple, ...]:
    """Names of LSNet, with that of the golden for some scales, which are ``w`` there so that they are filled near 0."""
    small = ('mixer.bn.weight', 'ffn.m.pw2.bn.weight')
    name = lambda there: there.removesuffix('weight') + 'w' if there.endswith(small) else there
    return tuple((name(there), *ours) for there, *ours in lsnet.NAMES['LSNet'])


def ortho_resnet_names() -> tuple[tuple[str, str], ...]:
    found = [(f'pre.0.{a}', f'stem/{b}') for a, b in _AFFINE] + [
        (f'pre.1.{a}', f'stem_norm/{b}') for a, b in _STATISTICS
    ]
    for stage in range(4):
        there, here = f'stage{stage + 1}.{{i}}.', f'stage{stage}/block{{i:02d}}/'
        found += [
            (f'{there}residual.{k}.{a}', f'{here}{name}/{b}')
            for k, name, names in (
                (0, 'norm1', _STATISTICS),
                (2, 'conv1', _AFFINE),
                (3, 'norm2', _STATISTICS),
                (5, 'conv2', _AFFINE),
            )
            for a, b in names
        ]
        found += [(f'{there}shortcut.{a}', f'{here}shortcut/{b}') for a, b in _AFFINE]
    return (*found, *((f'linear.{a}', f'head/{b}') for a, b in _AFFINE))


class LongConv(nn.Module):
    """`kernels.long_conv` with its kernel as the parameter; gates stand behind the input as channels.

    Attributes:
        channels: of the input without its gates.
        places: taps of the kernel.
        circular, implementation: see `long_conv`.
    """

    channels: int
    places: int
    circular: bool = False
    implementation: str | None = None

    @nn.compact
    def __call__(self, x):
        kernel = self.param('kernel', nn.initializers.zeros, (self.places, self.channels))
        u, *gates = jnp.split(x, x.shape[-1] // self.channels, axis=-1)
        how = dict(zip(('pre_gate', 'post_gate'), gates))
        return long_conv(u, kernel, circular=self.circular, implementation=self.implementation, **how)


class GatedLinearAttention(nn.Module):
    """`kernels.gla` of queries, keys, values (as wide as the output) and raw gates side by side; no parameters.

    Attributes:
        values: width of the values.
        implementation: see `gla`.
    """

    values: int
    implementation: str | None = None

    @nn.compact
    def __call__(self, x):
        keys = (x.shape[-1] - self.values) // 3
        q, k, v, gate = jnp.split(x, (keys, 2 * keys, 2 * keys + self.values), axis=-1)
        return gla(q, k, v, jax.nn.log_sigmoid(gate) / 16, implementation=self.implementation)[0]


class PoincareLinear(nn.Module):
    """The hyperbolic head alone, as its published code has it."""

    @nn.compact
    def __call__(self, x):
        return poincare_resnet.PoincareLinear(10, published=True, name='head')({'pooled': x})


def published_poincare_resnet() -> Classifier:
    """Hyperbolic ResNet-8 as its published code has it, scales held at 1."""
    backbone = poincare_resnet.PoincareResNet(depths=(1, 1, 1), published=True, learned=False)
    return Classifier(backbone, poincare_resnet.PoincareLinear(10, published=True))


class GLMixBlock(nn.Module):
    """A block of GLNet with 16 slots."""

    @nn.compact
    def __call__(self, x):
        mixer = functools.partial(glnet.GLMix, heads=2, slots=16)
        return glnet.Block(mixer, name='block')(x, None)


class ScatteringTokens(nn.Module):
    """SVT's mixer of channels and columns for a map of 28x28, which comes as tokens; each 7th one is the result."""

    @nn.compact
    def __call__(self, x):
        y = svt.ScatteringTokens((28, 28), name='mixer')(x.reshape(len(x), 28, 28, -1))
        return y.reshape(x.shape)[:, ::7]


class MoatBlock(nn.Module):
    """A block of MOAT with its table of offsets for a map of 6x6."""

    @nn.compact
    def __call__(self, x):
        attention = functools.partial(moat.RelativeAttention, table=(6, 6))
        return moat.Block(64, 2, 0, attention, name='block')(x, None)


def glmix_block_names() -> tuple[tuple, ...]:
    return tuple((name, f'block/{path}', *axes) for name, path, *axes in glnet.BLOCK_NAMES)


def scattering_tokens_names() -> tuple[tuple[str, str], ...]:
    return tuple((name, f'mixer/{path}') for name, path in svt.MIXER_NAMES)


class DuoFormerTokens(nn.Module):
    """DuoFormer's transformer on the tokens of 7x7 regions, and its classifier; `scratch` is which one."""

    scratch: bool

    @nn.compact
    def __call__(self, x):
        scaled = {'scale': 2 * 96**-0.5, 'residual': functools.partial(LayerScale, initial=1e-5)}
        how = {'heads': 4, 'chained': True} if self.scratch else {'heads': 3, **scaled}
        former = duoformer.Former(3, grid=(7, 7), name='former', **how)
        token = former(x.reshape(len(x), 7, 7, *x.shape[2:]))[:, 0]
        return Dense(10, name='head')(token if self.scratch else LayerNorm(epsilon=1e-6, name='norm')(token))


def duoformer_tokens_names(*, scratch: bool) -> tuple[tuple[str, str], ...]:
    return (*duoformer.former_names(scratch=scratch), *((f'head.{a}', f'head/{b}') for a, b in _AFFINE))


def moat_block_names() -> tuple[tuple, ...]:
    there, here = 'block_{s:02d}_{i:02d}', 'backbone/stage{s}/block{i:02d}/'
    return tuple(
        (name.replace(there, 'blk'), f'block/{path.removeprefix(here)}', *axes)
        for name, path, *axes in moat.NAMES['MOAT']
        if path.startswith(here)
    )


class AggregatedAttention(nn.Module):
    """TransNeXt's attention of neighbours and a pooled map on 12x12 pixels in a row."""

    @nn.compact
    def __call__(self, x):
        mixer = transnext.AggregatedAttention(4, (12, 12), 4, name='mixer')
        return mixer(x.reshape(x.shape[0], 12, 12, -1)).reshape(x.shape)


def aggregated_attention_names() -> tuple[tuple[str, str], ...]:
    there, here = 'block{s+1}.{i}.', 'backbone/stage{s}/block{i:02d}/'
    return tuple(
        (name.removeprefix(there), path.removeprefix(here))
        for name, path in transnext.NAMES['TransNeXt']
        if path.startswith(f'{here}mixer/')
    )


def hybrid_stage_names(names: Sequence[tuple]) -> tuple[tuple, ...]:
    """Of a network's names, those of its stages' blocks, as a stage alone has them."""
    there, here = 'stages.{s}.', 'backbone/stage{s}/'
    inside = [pair for pair in names if pair[0].startswith(there)]
    return tuple((name.removeprefix(there), path.replace(here, 'stage/'), *axes) for name, path, *axes in inside)


class CompressedPatches(nn.Module):
    """The patch embedding of CI2P-ViT on an encoder of eight channels; its map as tokens."""

    @nn.compact
    def __call__(self, x):
        y = EncodedPatches(32, (8, 8, 8, 8), name='patches')(x)
        return y.reshape(len(y), -1, y.shape[-1])


class CoAtNetStage(nn.Module):
    """The last stage of CoAtNet-0 alone; every fourth channel."""

    @nn.compact
    def __call__(self, x):
        blocks = pyramid.with_stride(coatnet.VARIANTS['coatnet_0_224']._block(3), 768, 2, 2)
        return pyramid.Stage(blocks, False, name='stage')(x, None)[..., ::4]


class MaxViTStage(nn.Module):
    """The first stage of MaxViT-T alone; every other channel."""

    @nn.compact
    def __call__(self, x):
        blocks = pyramid.with_stride(maxvit.VARIANTS['maxvit_tiny_tf_224']._block((7, 7)), 64, 2, 2)
        return pyramid.Stage(blocks, False, name='stage')(x, None)[..., ::2]


class RecursiveStage(nn.Module):
    """A stage of SReT with two shared blocks, in four slices and then in one."""

    @nn.compact
    def __call__(self, x):
        block = functools.partial(sret.Block, 3, (4, 1), 3.6)
        return trunk.Stage(block, 2, Add, False, False, name='stage')(x, None)


def recursive_stage_names() -> tuple[tuple[str, str], ...]:
    return tuple((name, f'stage/{path}' if path else '') for name, path in sret.STAGE_NAMES)


class Autoencoder(nn.Module):
    """MAE's network on patches of 8x8, of which those with the smallest noise are seen."""

    @nn.compact
    def __call__(self, x):
        noise = jnp.asarray(np.random.default_rng(0).random((len(x), 64), dtype=np.float32))
        backbone = ViT(96, 3, 3, patch=8, image_size=64, parent=None)
        network = masked.Autoencoder(backbone, 64, 2, 4, fixed_positions=None, name='network')
        return network(x, noise)[0]


def autoencoder_names() -> tuple[tuple[str, str], ...]:
    block = {
        'norm1': 'mixer_norm',
        'attn.qkv': 'mixer/qkv',
        'attn.proj': 'mixer/out',
        'norm2': 'mlp_norm',
        'mlp.fc1': 'mlp/up',
        'mlp.fc2': 'mlp/down',
    }
    pairs = {
        'patch_embed.proj': 'backbone/stem',
        'norm': 'backbone/norm',
        'decoder_embed': 'embed',
        'decoder_norm': 'norm',
        'decoder_pred': 'paint',
        **{f'blocks.{{i}}.{there}': f'backbone/block{{i:02d}}/{here}' for there, here in block.items()},
        **{f'decoder_blocks.{{i}}.{there}': f'block{{i:02d}}/{here}' for there, here in block.items()},
    }
    alone = {
        'cls_token': 'backbone/cls_token',
        'pos_embed': 'backbone/pos_embed',
        'mask_token': 'mask_token',
        'decoder_pos_embed': 'pos_embed',
    }
    return (
        *((there, f'network/{here}') for there, here in alone.items()),
        *(
            (f'{there}.{a}', f'network/{here}/{b}')
            for there, here in pairs.items()
            for a, b in (_SCALED if here.endswith('norm') else _AFFINE)
        ),
    )


class FeaturePyramid(nn.Module):
    """A feature pyramid of maps packed into one: level i has the next channels, averaged over 2^i x 2^i pixels.

    Attributes:
        width: channels of every level.
        channels: of the input, by level.
    """

    width: int
    channels: tuple[int, ...]

    @nn.compact
    def __call__(self, x):
        parts = jnp.split(x, np.cumsum(self.channels)[:-1].tolist(), axis=-1)
        maps = [_halved(part, level) for level, part in enumerate(parts)]
        found = [y.reshape(len(y), -1, self.width) for y in Fpn(self.width, name='fpn')(maps)]
        return jnp.concatenate(found, axis=1).swapaxes(1, 2)


def fpn_names() -> tuple[tuple[str, str], ...]:
    parts = (('inner_blocks', 'lateral'), ('layer_blocks', 'output'))
    return tuple((f'fpn.{a}.{{i}}.0.{c}', f'fpn/{b}{{i}}/{d}') for a, b in parts for c, d in _AFFINE)


class DetectionHead(nn.Module):
    """FCOS's head on a map and on its 2x2 average."""

    @nn.compact
    def __call__(self, x):
        levels = Towers(5, convs=2, groups=4, name='towers')([x, _halved(x, 1)])
        return jnp.concatenate([level.reshape(len(level), -1, 10) for level in levels], axis=1)


def detection_head_names() -> tuple[tuple[str, str], ...]:
    found = []
    for there, here in (('classification_head', 'class'), ('regression_head', 'box')):
        for index in (0, 1):
            conv, norm = f'head.{there}.conv.{3 * index}', f'head.{there}.conv.{3 * index + 1}'
            found += [(f'{conv}.{a}', f'towers/{here}{index}_conv/{b}') for a, b in _AFFINE]
            found += [(f'{norm}.{a}', f'towers/{here}{index}_norm/{b}') for a, b in _SCALED]
    last = (
        ('classification_head.cls_logits', 'classes'),
        ('regression_head.bbox_reg', 'sides'),
        ('regression_head.bbox_ctrness', 'centre'),
    )
    return (*found, *((f'head.{there}.{a}', f'towers/{here}/{b}') for there, here in last for a, b in _AFFINE))


class Denoised(nn.Module):
    """EDM's U-Net inside of its preconditioning, at the deviation 0.7."""

    skip_scale: float | tuple[float, float] = 1.0

    @nn.compact
    def __call__(self, x):
        prediction, process, sigma = Preconditioned(0.5), Sigmas(), jnp.full(len(x), 0.7)
        unet = UNet(8, (1, 2), 1, (1,), embedding_multiple=2, skip_scale=self.skip_scale, name='unet')
        level = process.level(sigma)
        return prediction.clean(unet(prediction.read(x, level), process.told(sigma)), x, level)


def unet_names() -> tuple[tuple[str, str], ...]:
    affine = lambda there, here: [(f'm.model.{there}.{a}', f'unet/{here}/{b}') for a, b in _AFFINE]
    scaled = lambda there, here: [(f'm.model.{there}.{a}', f'unet/{here}/{b}') for a, b in _SCALED]
    found = [*affine('map_layer{i}', 'time{i}'), *affine('enc.8x8_conv', 'stem'), *affine('out_conv', 'paint')]
    found += scaled('out_norm', 'norm')
    blocks = {'enc.4x4_down': 'down1', 'dec.4x4_in{n}': 'middle{n}', 'dec.8x8_up': 'up0'}
    for level, side in enumerate((8, 4)):
        blocks |= {f'{way}.{side}x{side}_block{{n}}': f'{ours}{level}_block{{n}}' for way, ours in _WAYS}
    for there, here in blocks.items():
        found += scaled(f'{there}.norm{{i}}', f'{here}/norm{{i}}') + affine(f'{there}.conv{{i}}', f'{here}/conv{{i}}')
        found += affine(f'{there}.affine', f'{here}/affine') + affine(f'{there}.skip', f'{here}/shortcut')
    return tuple(found)


_WAYS = (('enc', 'down'), ('dec', 'up'))


def _halved(x: jax.Array, times: int) -> jax.Array:
    b, h, w, c = x.shape
    return x.reshape(b, h >> times, 1 << times, w >> times, 1 << times, c).mean(axis=(2, 4))
