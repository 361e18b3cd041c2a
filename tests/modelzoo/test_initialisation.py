"""How networks start: each variant as docs/initial_values.tsv has it, and what papers prescribe.

A test of the table that fails names the variant, the parameter, how it started and how it starts. `CONTRACTS` is the
table of what a paper or its code prescribes; docs/initialisation.md has it in words.
"""

import fnmatch
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.methods.optim.depth_mup import DepthMuP
from longview.methods.peft import low_rank
from longview.methods.supervised import Supervised
from longview.methods.task import Variables
from longview.modelzoo.denoisers import edm
from longview.modelzoo.heads import Linear
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.frame.block import PreNorm
from longview.modelzoo.layers.frame.mlp import Mlp
from longview.modelzoo.layers.mixers import dplr_ssm
from longview.modelzoo.layers.norms import evonorm, norm
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.layers.norms.weight_standardization import ScaledConv, StandardizedConv
from longview.modelzoo.layers.residuals import fixup
from longview.modelzoo.layers.residuals.frac_connections import FracConnections
from longview.modelzoo.layers.residuals.hyper_connections import HyperConnections
from longview.modelzoo.layers.residuals.laurel import Laurel
from longview.modelzoo.layers.residuals.layer_scale import LayerScale
from longview.modelzoo.layers.residuals.orthogonal import Orthogonal
from longview.modelzoo.layers.residuals.residual import Add
from longview.modelzoo.layers.residuals.rezero import ReZero
from longview.modelzoo.sequence import sgconv
from longview.modelzoo.vision import convit, nfnet, resnet
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo import initial, initial_table
from tests.modelzoo.initial import DRAWN, Initializer, Moments
from tests.modelzoo.tiny import jit

PAGE = initial_table.TABLE.with_name('initialisation.md')
BEGIN, END = '<!-- table: python -m tests.modelzoo.test_initialisation -->\n', '<!-- end of the table -->'
KEY = jax.random.key(0)
# In every family, what is traced quickly and has all its kinds of parameters; `pytest -m heavy` has the others.
LIGHT = (
    'convit_tiny',
    'convnext_tiny',
    'convnextv2_atto',
    'cvt_13',
    'dm_nfnet_f0',
    'fixup_resnet20',
    'gla_340m',
    'hornet_tiny_gf',
    'hyena_153m',
    'inceptionnext_atto',
    'long_conv_example',
    'mamba_130m',
    'mixer_s32_224',
    'nf_resnet26',
    'pvt_v1_tiny',
    'pvt_v2_b0',
    'res2net50_26w_4s',
    'resformer_82m',
    'resmlp_12_224',
    'resnet18',
    'resnetv2_50x1_bit',
    's4_example',
    's4d_example',
    'sgconv_example',
    'skipnet_ffgate1_38',
    'swinv2_tiny_window8_256',
    'tiny_moat_0',
    'unireplknet_a',
    'vcmamba_s',
    'vig_h_tiny',
    'vig_tiny',
    'vit_tiny_patch16_224',
    'zoology_attention',
    'zoology_h3',
    'zoology_rwkv4',
)


@pytest.mark.parametrize(
    'name', [name if name in LIGHT else pytest.param(name, marks=pytest.mark.heavy) for name in initial_table.listed()]
)
def test_a_network_starts_as_the_table_says(name):
    changes = initial_table.changes(initial_table.recorded().get(name, {}), initial_table.leaves(name))
    assert not changes, '\n'.join(
        [
            f'{name} does not start as docs/initial_values.tsv says:',
            *changes,
            f'If that is meant, run `{initial_table.COMMAND} {name}` and say it in CHANGELOG.md.',
        ]
    )


def test_the_table_has_the_published_variants_and_no_others():
    assert [*initial_table.recorded()] == initial_table.listed(), (
        f'docs/initial_values.tsv is out of date: run `{initial_table.COMMAND}`'
    )


Law = Moments | Callable[[Sequence[int]], Moments]
Faults = Callable[[], list[str]]


class Contract(NamedTuple):
    """What a paper prescribes.

    Attributes:
        paper: its first author and number on arXiv.
        where: in the paper, or in its code.
        says: what holds of a new network.
        faults: returns what is not so, in words.
    """

    paper: str
    where: str
    says: str
    faults: Faults


def constant(value: float) -> Moments:
    return Moments(0, value, 0.0, 0.0)


def normal(deviation: float) -> Moments:
    return Moments(DRAWN, 0.0, deviation, 3.0)


def between(low: float, high: float) -> Moments:
    """Uniform values."""
    return Moments(DRAWN, (low + high) / 2, (high - low) / math.sqrt(12), 1.8)


def within(bound: float) -> Moments:
    """Uniform values between -bound and bound."""
    return between(-bound, bound)


ZERO, ONE = constant(0.0), constant(1.0)


def leaves(
    of: str | Callable[[], dict[str, Initializer]], pattern: str, law: Law, through: Callable | None = None
) -> Faults:
    """Returns what finds the parameters that do not start by a law.

    Args:
        of: a published network, or what returns initializers.
        pattern: of the paths concerned.
        law: moments, or a function from a shape to them.
        through: what is done to the values first, if anything.
    """

    def faults() -> list[str]:
        first = initial.of_network(of) if isinstance(of, str) else of()
        concerned = {path: made for path, made in first.items() if fnmatch.fnmatch(path, pattern)}
        if not concerned:
            return [f'no parameter matches {pattern}']
        found = []
        for path, made in concerned.items():
            wanted = law(made.shape) if callable(law) else law
            moments = initial.moments(made) if through is None else _moments_through(through, *initial.sample(made))
            found += [] if wanted.agrees(moments) else [f'{path} has {moments}, not {wanted}']
        return found

    return faults


def _moments_through(through: Callable[[np.ndarray], np.ndarray], drawn: bool, values: np.ndarray) -> Moments:
    return initial.moments_of(drawn, through(values))


def equal(found: Callable[[], Any], wanted: Callable[[], Any] | float, bar: float = 0.0) -> Faults:
    """Returns what finds numbers that are not as wanted; `bar` is the largest difference allowed."""

    def faults() -> list[str]:
        ours = np.asarray(jax.device_get(found()), np.float64)
        theirs = np.asarray(jax.device_get(wanted() if callable(wanted) else wanted), np.float64)
        apart = abs(ours - theirs)
        return [] if (apart <= bar).all() else [f'the largest difference is {np.max(apart):.3g}, allowed {bar:.3g}']

    return faults


def both(*checks: Faults) -> Faults:
    return lambda: [fault for check in checks for fault in check()]


def module(part: nn.Module, *shape: int, method: str | None = None) -> Callable[[], dict[str, Initializer]]:
    """Returns what gives the initializers of a layer for an input of a shape."""
    rest = (None,) if isinstance(part, PreNorm | resnet.Basic) else ()
    return lambda: initial.initializers(part, jax.ShapeDtypeStruct(shape, jnp.float32), *rest, method=method)


def noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def transformer(residual: Callable[..., nn.Module], norms: Callable[..., nn.Module] = norm.LayerNorm) -> nn.Module:
    return PreNorm(norms, functools.partial(Attention, 2), Mlp, residual)


def new(block: nn.Module, x: jax.Array, *rest: Any) -> jax.Array:
    """Returns what a block makes of `x` with its initial values."""
    return jit(lambda x: block.init_with_output(KEY, x, *rest)[0])(x)


TOKENS, MAP = noise(2, 5, 16), noise(2, 6, 6, 16)


def is_identity(block: nn.Module, x: jax.Array = TOKENS) -> Faults:
    return equal(lambda: new(block, x, None), lambda: x)


def starts_as_plain(residual: Callable[..., nn.Module]) -> Faults:
    """The network gives what it gives with plain residuals; matrices of equal paths start equal."""
    nets = [ViT(16, 2, 2, patch=4, image_size=8, residual=kind) for kind in (residual, Add)]
    outs = functools.cache(lambda: [new(net, noise(2, 8, 8, 3))['tokens'] for net in nets])
    return equal(lambda: outs()[0], lambda: outs()[1], 1e-4)


def static_alpha(part: nn.Module, *shape: int) -> Callable[[], np.ndarray]:
    """Returns what gives the weights with which a branch reads the parts of a stream and these stay."""
    return lambda: initial.sample(module(part, *shape, method='read')()['static_alpha'])[1]


def spread(activation: Callable[[np.ndarray], jax.Array]) -> float:
    """Returns the variance of the activation of standard normal values, by quadrature."""
    x = np.linspace(-9, 9, 20001)
    weight = np.exp(-x * x / 2) / np.exp(-x * x / 2).sum()
    y = np.asarray(activation(jnp.asarray(x, jnp.float32)), np.float64)
    return float((weight * y * y).sum() - (weight * y).sum() ** 2)


def output_variance(conv: nn.Module) -> float:
    """Returns the variance of a convolution's output for standard normal input, away from the border."""
    return float(np.var(jax.device_get(new(conv, noise(8, 12, 12, 64)))[:, 2:-2, 2:-2]))


def added_variances() -> np.ndarray:
    """Returns what each of four NF-ResNet blocks, their last scales at 1, adds to the variance, over the prediction."""
    block = lambda before: nfnet.Block(64, variance=before)
    predicted = [1.0 + 0.2**2 * index for index in range(5)]
    x = noise(4, 16, 16, 64)

    @jit
    def run(x: jax.Array) -> list[jax.Array]:
        found = []
        for index, before in enumerate(predicted[:-1]):
            params = block(before).init(jax.random.fold_in(KEY, index), x, None)['params']
            params['conv3']['scale'] = jnp.ones_like(params['conv3']['scale'])
            x = block(before).apply({'params': params}, x, None)
            found.append(jnp.var(x))
        return found

    return np.diff(jax.device_get([jnp.var(x), *run(x)])) / np.diff(predicted)


def depth_mup_growth(depth: int) -> float:
    """Returns the factor on the variance of a stream through `depth` random matrices, as DepthMuP scales them."""
    draw = np.random.default_rng(0).normal
    params = {
        f'block{i:02d}': {'mlp': {'down': {'kernel': jnp.asarray(draw(size=(64, 64)) / 8)}}} for i in range(depth)
    }
    scaled = DepthMuP(Supervised(ViT(), Linear(1)), depth).view(Variables(params, {'inner': {}}, {'inner': {}})).params
    x = begin = draw(size=(64, 64))
    for block in scaled.values():
        x = x + x @ np.asarray(block['mlp']['down']['kernel'])
    return x.var() / begin.var()


WEIGHT = noise(24, 16)


def low_rank_start(divide: low_rank.Division, part: Callable[..., Any]) -> Callable[[], Any]:
    """Returns what computes `part` of (weight, down, up, base) at rank 3 and scale 2."""
    return lambda: part(WEIGHT, *jit(lambda key: divide(WEIGHT, 3, 2.0, key))(KEY))


def inside(part: nn.Module, method: str, x: jax.Array) -> np.ndarray:
    """Returns what a method returns inside of a layer that is newly made and applied to `x`."""

    @jit
    def run(x: jax.Array) -> list[jax.Array]:
        found = []

        def catch(call: Callable, arguments: tuple, named: dict, context: nn.module.InterceptorContext) -> Any:
            result = call(*arguments, **named)
            found.extend([result] if context.method_name == method else [])
            return result

        with nn.intercept_methods(catch):
            part.init(KEY, x)
        return found

    return jax.device_get(run(x))[0]


def positions_seen() -> np.ndarray:
    """Returns where each of nine heads of ConViT looks most from the middle of a 5x5 map, as (row, column), sorted."""
    scores = inside(convit.GatedPositionalAttention(heads=9), '_by_place', jnp.zeros((1, 5, 5, 9)))
    return np.array(sorted(divmod(int(place), 5) for place in scores[0, :, 12].argmax(-1)))


def made(name: str, path: str) -> np.ndarray:
    """Returns the initial values of a parameter whose values are fixed."""
    return initial.sample(initial.of_network(name)[path])[1]


def he_fan_out(shape: Sequence[int]) -> Moments:
    return normal(math.sqrt(2 / (math.prod(shape) / shape[-2])))


def _fans(shape: Sequence[int]) -> int:
    return math.prod(shape[:-2]) * (shape[-2] + shape[-1])


def _singular(matrix: jax.Array) -> np.ndarray:
    return np.linalg.svd(np.asarray(matrix), compute_uv=False)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x))


def envelope(shape: Sequence[int]) -> np.ndarray:
    taps, channels, _ = shape
    speed = (channels // 2) ** (np.arange(channels) / channels)
    return np.exp(-(np.arange(taps) / taps)[:, None] * speed[None])[..., None]


HYPER = module(HyperConnections(4), 2, 4, 3, 8, method='read')
EVO_BLOCK = resnet.Basic(16, norm=evonorm.EvoNormB0, end_norm=evonorm.Affine, act=evonorm.unchanged)
NORMAL = normal(0.02)

CONTRACTS = {
    # Residual connections.
    'rezero': Contract(
        'Bachlechner 2003.04887',
        'section 3',
        'every residual weight is 0, so a block of any branch is the identity',
        both(leaves(module(transformer(ReZero), 2, 5, 16), '*residual/scale', ZERO), is_identity(transformer(ReZero))),
    ),
    'fixup_identity': Contract(
        'Zhang 1901.09321',
        'section 3, rule 1',
        'the last matrix of each branch is 0, so a block is the identity',
        is_identity(transformer(functools.partial(fixup.Fixup, blocks=8), norm.NoNorm)),
    ),
    'fixup_scale': Contract(
        'Zhang 1901.09321',
        'section 3, rule 2; m = 2, and L is the number of blocks as in the code',
        'other matrices of branches are He normal by the fan-out, times L^(-1 / (2 m - 2))',
        leaves('fixup_resnet20', '*conv1/kernel', lambda shape: normal(he_fan_out(shape).deviation / 3)),
    ),
    'fixup_scale_of_three': Contract(
        'Zhang 1901.09321',
        'section 3, rule 2; m = 3',
        'in branches of three matrices the factor is L^(-1/4)',
        leaves(
            lambda: {'kernel': Initializer(fixup.kernel_init(16, 3), ((32, 8),), (32, 8))},
            'kernel',
            normal(math.sqrt(2 / 32) / 2),
        ),
    ),
    'fixup_scalars': Contract(
        'Zhang 1901.09321',
        'section 3, rule 3',
        'multipliers are 1 and biases 0',
        both(
            leaves('fixup_resnet20', '*residual/scale', ONE),
            *(leaves('fixup_resnet20', f'*{name}', ZERO) for name in ('before', 'after', 'before2/bias', 'pool/bias')),
        ),
    ),
    'fixup_head': Contract(
        'Zhang 1901.09321',
        'section 3, rule 1',
        'the classifier is 0',
        leaves('fixup_resnet20', 'head/*', ZERO),
    ),
    'skip_init': Contract(
        'De 2002.10444; Brock 2102.06171',
        'SkipInit, and the code',
        'the scalar at the end of each branch is 0, so a block is its shortcut',
        both(
            leaves('dm_nfnet_f0', '*skip_scale', ZERO),
            is_identity(nfnet.Block(16, ratio=0.5, skip_init=True), MAP),
        ),
    ),
    'layer_scale': Contract(
        'Touvron 2103.17239',
        'section 2',
        'the channels of a branch are multiplied by one small constant',
        leaves(module(transformer(LayerScale), 2, 5, 16), '*residual/scale', constant(1e-4)),
    ),
    'resmlp_scale': Contract(
        'Touvron 2105.03404',
        'LayerScale, and the code',
        'LayerScale starts at 0.1, in 24 blocks at 1e-5, in 36 at 1e-6; Affine as the identity',
        both(
            *(
                leaves(f'resmlp_{depth}_224', '*residual/scale', constant(value))
                for depth, value in ((12, 0.1), (24, 1e-5), (36, 1e-6))
            ),
            leaves('resmlp_12_224', '*alpha', ONE),
            leaves('resmlp_12_224', '*beta', ZERO),
        ),
    ),
    'hyper_connections': Contract(
        'Zhu 2409.19606',
        'section 2.3, initialization',
        'branch k reads copy k mod n, all copies stay, each gets the output; dynamic matrices are 0, their scales 0.01',
        both(
            equal(
                static_alpha(HyperConnections(4, block=2, branch=1, branches=2), 2, 4, 3, 8),
                lambda: np.eye(4)[:, [5 % 4, 0, 1, 2, 3]],
            ),
            leaves(HYPER, 'static_beta', ONE),
            leaves(HYPER, 'dynamic_*_kernel', ZERO),
            leaves(HYPER, 'dynamic_*_scale', constant(0.01)),
        ),
    ),
    'hyper_connections_plain': Contract(
        'Zhu 2409.19606',
        'section 2.3',
        'a new network computes the plain pre-norm network',
        starts_as_plain(HyperConnections),
    ),
    'frac_connections': Contract(
        'Zhu 2503.14125',
        'the pseudo-code',
        'each fraction is read, kept and written by itself, so a new network computes the plain one',
        both(
            starts_as_plain(FracConnections),
            equal(static_alpha(FracConnections(4), 2, 3, 8), lambda: np.repeat(np.eye(4), 2, axis=1)),
        ),
    ),
    'laurel': Contract(
        'Menghani 2411.07501',
        'ours, for none is published; as LoRA',
        'the low-rank part of the stream is 0, so a block computes the plain one',
        equal(
            lambda: new(transformer(functools.partial(Laurel, 4)), TOKENS, None),
            lambda: new(transformer(Add), TOKENS, None),
            1e-6,
        ),
    ),
    'laurel_weights': Contract(
        'Menghani 2411.07501',
        'LAuReL-RW',
        'branch and stream have equal weights',
        leaves(module(transformer(functools.partial(Laurel, 0, weighted=True)), 2, 5, 16), '*mixture', ZERO),
    ),
    'orthogonal': Contract(
        'Oh 2505.11881',
        'the update',
        'what a branch adds is orthogonal to the stream, whatever the initial values',
        equal(
            lambda: jnp.sum((Orthogonal().apply({}, TOKENS, TOKENS[::-1], method='write') - TOKENS) * TOKENS, axis=-1),
            0.0,
            1e-4,
        ),
    ),
    'depth_mup': Contract(
        'Bordelon 2309.16620; Yang 2310.02244',
        'the residual multiplier 1 / sqrt(L)',
        'with branches over the root of the depth, the variance of the stream does not grow with the depth',
        equal(lambda: [depth_mup_growth(depth) for depth in (4, 16, 64)], math.e, 0.6),
    ),
    # Norms, and networks without any.
    'norms': Contract(
        'Ioffe 1502.03167; Ba 1607.06450; Wu 1803.08494; Zhang 1910.07467',
        'the definitions',
        'scales are 1, biases 0; running means are 0, running variances 1',
        both(
            *(
                leaves(module(part, 2, 4, 4, 16), name, law)
                for part in (BatchNorm(), norm.LayerNorm(), norm.GroupNorm(4))
                for name, law in (('scale', ONE), ('bias', ZERO))
            ),
            leaves(module(norm.RMSNorm(), 2, 16), 'scale', ONE),
            leaves(module(BatchNorm(), 2, 4, 4, 16), 'mean', ZERO),
            leaves(module(BatchNorm(), 2, 4, 4, 16), 'var', ONE),
        ),
    ),
    'response_norm': Contract(
        'Woo 2301.00808',
        'section 3, algorithm 1',
        'global response normalization is the identity',
        both(
            leaves('convnextv2_atto', '*response/scale', ZERO),
            leaves('convnextv2_atto', '*response/bias', ZERO),
            equal(lambda: new(norm.GlobalResponseNorm(), MAP), lambda: MAP),
        ),
    ),
    'evonorm': Contract(
        'Liu 2004.02967',
        'the layers as defined, and the code',
        'v and gamma are 1, beta is 0, the running variance 1; gamma is 0 where a branch ends',
        both(
            leaves(module(EVO_BLOCK, 1, 8, 8, 16), '*/v', ONE),
            leaves(module(EVO_BLOCK, 1, 8, 8, 16), '*/var', ONE),
            leaves(module(EVO_BLOCK, 1, 8, 8, 16), '*conv1/norm/scale', ONE),
            leaves(module(EVO_BLOCK, 1, 8, 8, 16), '*conv2/norm/scale', ZERO),
            leaves(module(evonorm.EvoNormS0(4), 1, 8, 8, 16), '[vs]*', ONE),
        ),
    ),
    'weight_standardization': Contract(
        'Qiao 1903.10520; Kolesnikov 1912.11370',
        'weight standardization',
        'a standardized kernel has variance 1, so an output of standard normal input has that of the fan-in',
        equal(lambda: output_variance(StandardizedConv(32, 3)) / (9 * 64), 1.0, 0.1),
    ),
    'scaled_standardization': Contract(
        'Brock 2101.08692',
        'Scaled Weight Standardization',
        'gains are 1 and biases 0, and an output of standard normal input has variance gamma^2',
        both(
            equal(lambda: output_variance(ScaledConv(32, 3)), 1.0, 0.1),
            leaves(module(ScaledConv(32, 3), 2, 8, 8, 16), 'scale', ONE),
            leaves(module(ScaledConv(32, 3), 2, 8, 8, 16), 'bias', ZERO),
        ),
    ),
    'nf_gains': Contract(
        'Brock 2101.08692',
        'the gains of nonlinearities, and the code',
        'an activation times its gain keeps the variance of standard normal values',
        equal(
            lambda: [
                spread(lambda x: nn.relu(x) * nfnet.RELU_GAMMA),
                spread(lambda x: nn.silu(x) * nfnet.SILU_GAMMA),
                spread(nfnet.scaled_gelu),
            ],
            1.0,
            2e-3,
        ),
    ),
    'nf_variance': Contract(
        'Brock 2101.08692',
        'the expected variance of each block',
        'with alpha 0.2 and gains of 1, each block adds 0.04 to the variance of the stream',
        equal(added_variances, 1.0, 0.3),
    ),
    'nf_resnet_ends': Contract(
        'Brock 2101.08692',
        "timm's code, in place of SkipInit",
        'the gain at the end of each branch is 0, so a block is its shortcut',
        both(leaves('nf_resnet26', '*conv3/scale', ZERO), is_identity(nfnet.Block(16), MAP)),
    ),
    'nfnet_head': Contract(
        'Brock 2102.06171',
        'the code',
        'the classifier is normal with deviation 0.01',
        leaves('dm_nfnet_f0', 'head/kernel', normal(0.01)),
    ),
    'zero_gamma': Contract(
        'Goyal 1706.02677',
        'section 5.1',
        'the last gamma of each branch is 0, so a block of a ResNet is the rectified shortcut',
        both(
            leaves('resnet18', '*conv2/norm/scale', ZERO),
            leaves('res2net50_26w_4s', '*conv3/norm/scale', ZERO),
            equal(lambda: new(resnet.Basic(16), MAP, None), lambda: nn.relu(MAP)),
            equal(lambda: new(resnet.Bottleneck(16), MAP, None), lambda: nn.relu(MAP)),
        ),
    ),
    'he': Contract(
        'He 1502.01852',
        'section 2.2, backward',
        'kernels of ResNets are normal with variance 2 / fan_out',
        both(
            leaves('resnet18', '*conv/kernel', he_fan_out), leaves('resnetv2_50x1_bit', '*conv[123]/kernel', he_fan_out)
        ),
    ),
    # Families of networks for images.
    'convnext': Contract(
        'Liu 2201.03545',
        'table 5, and the code',
        'LayerScale starts at 1e-6; matrices and kernels are truncated normal with deviation 0.02, biases 0',
        both(
            leaves('convnext_tiny', '*residual/scale', constant(1e-6)),
            leaves('convnext_tiny', '*kernel', NORMAL),
            leaves('convnext_tiny', '*bias', ZERO),
        ),
    ),
    'metanext': Contract(
        'Yu 2303.16900; Rao 2207.14284; Ding 2311.15599',
        'the codes',
        'InceptionNeXt, HorNet and UniRepLKNet start LayerScale at 1e-6',
        both(
            *(
                leaves(name, '*residual/scale', constant(1e-6))
                for name in ('inceptionnext_atto', 'hornet_tiny_gf', 'unireplknet_a')
            )
        ),
    ),
    'vit': Contract(
        'Dosovitskiy 2010.11929',
        "timm's code",
        'matrices and positions have deviation 0.02 and biases 0, the class token 1e-6; patches start as in torch',
        both(
            leaves('vit_tiny_patch16_224', '*block*kernel', NORMAL),
            leaves('vit_tiny_patch16_224', '*block*bias', ZERO),
            leaves('vit_tiny_patch16_224', '*pos_embed', NORMAL),
            leaves('vit_tiny_patch16_224', '*cls_token', normal(1e-6)),
            leaves('vit_tiny_patch16_224', '*stem/kernel', within(1 / math.sqrt(16 * 16 * 3))),
            leaves('vit_tiny_patch16_224', 'head/kernel', NORMAL),
        ),
    ),
    'deit': Contract(
        'Touvron 2012.12877',
        'the code',
        'the class token has deviation 0.02',
        leaves('deit_tiny_patch16_224', '*cls_token', NORMAL),
    ),
    'mixer': Contract(
        'Tolstikhin 2105.01601',
        'the code in JAX',
        'matrices have the variance of their fan-in (LeCun), cut at two deviations; biases are 0',
        both(
            leaves('mixer_s32_224', '*block*kernel', lambda shape: Moments(DRAWN, 0.0, shape[0] ** -0.5, 2.365)),
            leaves('mixer_s32_224', '*block*bias', ZERO),
        ),
    ),
    'swin_v2': Contract(
        'Liu 2111.09883',
        'section 3.2, and the code',
        'the norms at the ends of branches are 0; the inverse temperature of cosine attention is 10',
        both(
            leaves('swinv2_tiny_window8_256', '*block*_norm/scale', ZERO),
            leaves('swinv2_tiny_window8_256', '*block*_norm/bias', ZERO),
            leaves('swinv2_tiny_window8_256', '*logit_scale', constant(float(np.float32(math.log(10))))),
            leaves('swinv2_tiny_window8_256', '*block*kernel', NORMAL),
        ),
    ),
    'convit': Contract(
        "d'Ascoli 2103.10697",
        'gated positional self-attention, and the code',
        'gates are 1, values the identity, and the heads look at the pixels of a square around the query',
        both(
            leaves('convit_tiny', '*gate', ONE),
            equal(lambda: made('convit_tiny', 'backbone/block00/mixer/v/kernel'), lambda: np.eye(192)),
            equal(positions_seen, lambda: np.array([(1 + i, 1 + j) for i in range(3) for j in range(3)])),
        ),
    ),
    'cvt': Contract(
        'Wu 2103.15808',
        'the code',
        'matrices and the class token have deviation 0.02, biases are 0; convolutions start as in torch',
        both(
            leaves('cvt_13', '*project/kernel', NORMAL),
            leaves('cvt_13', '*mlp/*kernel', NORMAL),
            leaves('cvt_13', '*cls_token', NORMAL),
            leaves('cvt_13', '*mixer/[qkv]/conv/kernel', within(1 / 3)),
        ),
    ),
    'hornet': Contract(
        'Rao 2207.14284',
        'the code',
        'kernels, global filters too, have deviation 0.02',
        leaves('hornet_tiny_gf', '*kernel', NORMAL),
    ),
    'pvt_v2': Contract(
        'Wang 2106.13797',
        'the code',
        'convolutions are He normal by the fan-out, counted by group',
        both(
            leaves('pvt_v2_b0', '*embed?/kernel', he_fan_out),
            leaves('pvt_v2_b0', '*mlp/conv/kernel', normal(math.sqrt(2 / 9))),
        ),
    ),
    'moat': Contract(
        'Yang 2210.01820',
        'the code',
        'all kernels and the tables of positions are normal with deviation 0.02, biases 0',
        both(
            leaves('tiny_moat_0', '*kernel', NORMAL),
            leaves('tiny_moat_0', '*pos_embed', NORMAL),
            leaves('tiny_moat_0', '*bias', ZERO),
        ),
    ),
    'vig': Contract(
        'Liao 2405.18425; Yang 2312.06635',
        'the codes',
        "the mixer's matrices have Xavier's uniform values with gain 2^-2.5, and the gates no bias",
        both(
            leaves('vig_tiny', '*mixer/*[a-z]/kernel', lambda shape: within(2**-2.5 * math.sqrt(6 / _fans(shape)))),
            leaves('vig_tiny', '*gate_up/bias', ZERO),
        ),
    ),
    # Networks for sequences.
    'gla': Contract(
        'Yang 2312.06635',
        'the code',
        'matrices and words are normal with deviation 0.02, and the bias of the decays is 0',
        both(
            leaves('gla_340m', '*kernel', NORMAL),
            leaves('gla_340m', '*table', NORMAL),
            leaves('gla_340m', '*decay_up/bias', ZERO),
        ),
    ),
    's4d': Contract(
        'Gu 2206.11893',
        'S4D-Lin, and the code',
        'A is -1/2 + i pi n, steps are log-uniform from 0.001 to 0.1, C has variance 1, D is normal',
        both(
            leaves('s4d_example', '*log_A_real', constant(float(np.float32(math.log(0.5))))),
            equal(
                lambda: made('s4d_example', 'backbone/block00/mixer/A_imag'),
                lambda: np.tile(np.pi * np.arange(32), (128, 1)),
                1e-4,
            ),
            leaves('s4d_example', '*log_dt', between(math.log(1e-3), math.log(1e-1))),
            leaves('s4d_example', '*mixer/C', normal(0.5**0.5)),
            leaves('s4d_example', '*mixer/D', normal(1.0)),
        ),
    ),
    's4': Contract(
        'Gu 2111.00396',
        'section 2 and appendix C, and the code',
        'A is HiPPO-LegS, as a diagonal of -1/2 + i times frequencies less a matrix of rank 1; steps as of s4d',
        both(
            leaves('s4_example', '*log_A_real', constant(float(np.float32(math.log(0.5))))),
            equal(
                lambda: made('s4_example', 'backbone/block00/mixer/A_imag')[:2, -1],
                lambda: np.full(2, -dplr_ssm.hippo(64)[0].imag[-1]),
                1e-4,
            ),
            leaves('s4_example', '*log_dt', between(math.log(1e-3), math.log(1e-1))),
            leaves('s4_example', '*mixer/C', normal(0.5**0.5)),
            leaves('s4_example', '*mixer/D', normal(1.0)),
        ),
    ),
    'mamba_rates': Contract(
        'Gu 2312.00752',
        'section 3.6',
        'A is -1, ..., -states for every channel (S4D-Real), and D is 1',
        both(
            equal(
                lambda: made('mamba_130m', 'backbone/block00/mixer/A_log'),
                lambda: np.tile(np.log(np.arange(1, 17)), (1536, 1)),
                1e-6,
            ),
            leaves('mamba_130m', '*mixer/D', ONE),
        ),
    ),
    'mamba_steps': Contract(
        'Gu 2312.00752',
        'section 3.6, and the code',
        'the bias of the steps is the inverse softplus of log-uniform values from 0.001 to 0.1',
        both(
            leaves(
                'mamba_130m', '*step/bias', between(math.log(1e-3), math.log(1e-1)), lambda bias: np.log(softplus(bias))
            ),
            leaves('mamba_130m', '*step/kernel', within(48**-0.5)),
        ),
    ),
    'mamba_out': Contract(
        'Gu 2312.00752',
        'the code, after GPT-2',
        'the last matrix of a block starts as torch starts it, over the root of the depth; words with deviation 0.02',
        both(
            leaves('mamba_130m', '*out/kernel', within(1 / math.sqrt(1536 * 24))),
            leaves('mamba_130m', '*table', NORMAL),
        ),
    ),
    'hyena': Contract(
        'Poli 2302.10866',
        'the code, after GPT-2',
        'matrices have deviation 0.02, the last one of a branch 0.02 over the root of the number of branches',
        both(
            leaves('hyena_153m', '*in/kernel', NORMAL),
            leaves('hyena_153m', '*filter/*kernel', NORMAL),
            leaves('hyena_153m', '*mixer/out/kernel', normal(0.02 / 6)),
            leaves('hyena_153m', '*mlp/down/kernel', normal(0.02 / 6)),
        ),
    ),
    'hyena_filter': Contract(
        'Poli 2302.10866',
        'the code',
        'sines have frequency 14, and positions begin at time 0 with cosines of 1 and sines of 0',
        both(
            leaves('hyena_153m', '*frequencies', constant(14.0)),
            equal(
                lambda: made('hyena_153m', 'backbone/block00/mixer/filter/positions')[0, 0],
                lambda: np.repeat([0.0, 1.0, 0.0], [1, 16, 16]),
            ),
        ),
    ),
    'sgconv': Contract(
        'Li 2210.09298',
        'the kernel, and the code',
        'bands are normal, and each kernel is divided by the length that it starts with',
        both(
            leaves('sgconv_example', '*band?/kernel', normal(1.0)),
            equal(
                lambda: np.linalg.norm(inside(sgconv.SGConv(places=64, band=8), '_kernel', noise(1, 64, 16)), axis=0),
                1.0,
                1e-5,
            ),
        ),
    ),
    'long_conv': Contract(
        'Fu 2302.06646',
        'the code (double_exp)',
        'taps are normal with deviation 0.02 times an exponential decay',
        leaves('long_conv_example', '*mixer/kernel', NORMAL, lambda taps: taps / envelope(taps.shape)),
    ),
    'zoology': Contract(
        'Arora 2312.04927',
        'the code, after GPT-2',
        'matrices have deviation 0.02, the last one of attention 0.02 over the root of the number of branches',
        both(
            leaves('zoology_attention', '*qkv/kernel', NORMAL),
            leaves('zoology_attention', '*out/kernel', normal(0.02 / 2)),
            leaves('zoology_attention_test', '*mlp/down/kernel', normal(0.02 / math.sqrt(2))),
        ),
    ),
    'rwkv': Contract(
        'Peng 2305.13048',
        'parameter initializations, and the code',
        'decays and shares of the element before are powers of the place of the channel, by the place of the block',
        both(
            equal(
                lambda: made('zoology_rwkv4', 'backbone/block01/mixer/decay'),
                lambda: -5 + 8 * (np.arange(128) / 127) ** 2.0,
                1e-5,
            ),
            equal(
                lambda: made('zoology_rwkv4', 'backbone/block01/mixer/mix_k')[0, 0],
                lambda: (np.arange(128) / 128) ** 0.5,
                1e-6,
            ),
        ),
    ),
    # Adapters, and what is generated.
    'lora': Contract(
        'Hu 2106.09685',
        'section 4.1, and the code',
        'the second factor is 0, so the weight is what it was; the first one is uniform as in torch',
        both(
            equal(low_rank_start(low_rank.lora, lambda weight, down, up, base: up), 0.0),
            equal(low_rank_start(low_rank.lora, lambda weight, down, up, base: base), lambda: WEIGHT),
            equal(
                low_rank_start(low_rank.lora, lambda weight, down, up, base: [jnp.max(abs(down))]),
                24**-0.5,
                0.1 * 24**-0.5,
            ),
        ),
    ),
    'pissa': Contract(
        'Meng 2404.02948',
        'section 3',
        'base and factors make up the weight; the factors hold its largest singular values, evenly',
        both(
            equal(
                low_rank_start(low_rank.pissa, lambda weight, down, up, base: base + 2 * down @ up),
                lambda: WEIGHT,
                1e-5,
            ),
            equal(
                low_rank_start(low_rank.pissa, lambda weight, down, up, base: _singular(base)[:13]),
                lambda: _singular(WEIGHT)[3:],
                1e-4,
            ),
            equal(
                low_rank_start(low_rank.pissa, lambda weight, down, up, base: 2 * jnp.linalg.norm(up, axis=1) ** 2),
                lambda: _singular(WEIGHT)[:3],
                1e-4,
            ),
        ),
    ),
    'edm': Contract(
        'Karras 2206.00364',
        'the code',
        'the last layer of a denoiser is 0, and so is what it predicts',
        equal(
            lambda: new(edm.UNet(width=8, multiples=(1,), depth=1, attention=()), noise(2, 8, 8, 3), jnp.ones(2)), 0.0
        ),
    ),
}


@pytest.mark.parametrize('name', CONTRACTS)
def test_a_network_starts_as_its_paper_has_it(name):
    contract = CONTRACTS[name]
    faults = contract.faults()
    assert not faults, f'{contract.paper} ({contract.where}): {contract.says}. Here {"; ".join(faults[:5])}.'


def table() -> str:
    """Returns the contracts as they stand in docs/initialisation.md."""
    rows = [f'| {row.says} | {row.paper} | {row.where} |' for row in CONTRACTS.values()]
    return '\n'.join(['| of a new network | paper | where it says so |', '|---|---|---|', *rows, ''])


def page() -> str:
    """Returns docs/initialisation.md with the table as it should be."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


def test_the_page_has_the_table():
    assert PAGE.read_text() == page(), (
        'docs/initialisation.md is out of date: run `python -m tests.modelzoo.test_initialisation`'
    )


if __name__ == '__main__':
    PAGE.write_text(page())
