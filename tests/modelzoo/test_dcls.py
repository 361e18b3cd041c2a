"""Dilated convolutions with learnable spacings: kernels by their definition, and networks that share positions."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview import modelzoo
from longview.modelzoo import weights
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.convolutions.dcls import INTERPOLATIONS, Dcls, construct
from longview.modelzoo.vision import convnext
from tests.modelzoo.tiny import filled, jit

SIZES = ((6,), (5, 4), (3, 5, 4))
COUNT, IN, OUT = 3, 2, 2


def draw(axes: int) -> tuple[np.ndarray, ...]:
    """Weights, positions and widths for kernels of so many axes."""
    rng = np.random.default_rng(axes)
    weights = rng.normal(size=(COUNT, IN, OUT)).astype(np.float32)
    positions, widths = rng.normal(size=(2, axes, OUT, IN, COUNT)).astype(np.float32)
    return weights, positions, widths


def by_definition(weights, positions, widths, sizes, interpolation) -> np.ndarray:
    """The sum over weights of their spread at every place, the published formula word for word."""
    order = range(len(sizes)) if interpolation == 'v0' else range(len(sizes))[::-1]
    kernel = np.zeros((*sizes, IN, OUT))
    for c, d, k in itertools.product(range(IN), range(OUT), range(COUNT)):
        spread = np.zeros(sizes)
        for place in itertools.product(*map(range, sizes)):
            away = [place[axis] - positions[p, d, c, k] - sizes[axis] // 2 for axis, p in enumerate(order)]
            width = [abs(widths[p, d, c, k]) for p in order]
            if interpolation == 'gauss':
                spread[place] = math.exp(-0.5 * sum((a / (0.27 + w)) ** 2 for a, w in zip(away, width)))
            else:
                reach = [1 + w if interpolation == 'max' else 1 for w in width]
                spread[place] = math.prod(max(0, r - abs(a)) for r, a in zip(reach, away))
        total = 1 if interpolation == 'v0' else spread.sum() + 1e-7
        kernel[..., c, d] += weights[k, c, d] * spread / total
    return kernel


def test_kernels_are_the_published_sums_in_one_to_three_dimensions():
    @jit
    def all_of_them(given):
        return [[construct(*parts, sizes, name) for name in INTERPOLATIONS] for parts, sizes in zip(given, SIZES)]

    given = [draw(len(sizes)) for sizes in SIZES]
    for parts, sizes, kernels in zip(given, SIZES, jax.device_get(all_of_them(given))):
        for name, kernel in zip(INTERPOLATIONS, kernels):
            np.testing.assert_allclose(kernel, by_definition(*parts, sizes, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('name', INTERPOLATIONS)
def test_no_array_has_each_place_of_each_weight(name):
    sizes, count, channels = (17, 17), 34, 8
    shape = jax.ShapeDtypeStruct((2, channels, 1, count), jnp.float32)
    weights = jax.ShapeDtypeStruct((count, 1, channels), jnp.float32)
    loss = lambda *parts: construct(*parts, sizes, name).sum()
    made = jax.make_jaxpr(jax.grad(loss, (0, 1)))(weights, shape, shape)
    arrays = [out.aval.size for equation in made.eqns for out in equation.outvars]
    assert max(arrays) <= count * 17 * channels


def test_weights_on_the_pixels_of_a_small_kernel_are_that_kernel():
    x = np.random.default_rng(0).normal(size=(2, 9, 7, 4)).astype(np.float32)
    plain = Conv(6, 3, 2, 1, groups=2)
    spaced = Dcls(6, 3, 2, 1, groups=2, dilated_size=7)
    grid = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing='ij')).reshape(2, 1, 1, 9)
    positions = jnp.broadcast_to(jnp.asarray(grid, jnp.float32), (2, 6, 2, 9))

    @jit
    def both(x):
        params = plain.init(jax.random.key(0), x)['params']
        moved = {**params, 'kernel': params['kernel'].reshape(9, 2, 6), 'positions': positions}
        places = lambda positions: spaced.apply({'params': moved | {'positions': positions}}, x)
        return plain.apply({'params': params}, x), places(positions), jax.grad(lambda p: places(p).sum())(positions)

    wanted, ours, gradient = jax.device_get(both(x))
    np.testing.assert_allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    assert gradient.all()  # on a pixel too: of 'v0' alone


@pytest.mark.parametrize('axes', [1, 3])
def test_lines_and_volumes_are_convolved_with_the_kernels(axes):
    x = np.random.default_rng(axes).normal(size=(1, *(6, 5, 4)[:axes], 4)).astype(np.float32)
    layer = Dcls(4, 3, padding=1, groups=2, interpolation='gauss', use_bias=False)

    @jit
    def run(x):
        variables = layer.init(jax.random.key(0), x)
        params = variables['params']
        kernel = construct(params['kernel'], params['positions'], params['widths'], (3,) * axes, 'gauss')
        return layer.apply(variables, x), kernel

    y, kernel = jax.device_get(run(x))
    assert y.shape == x.shape and kernel.shape == (3,) * axes + (2, 4)
    padded = np.pad(x, ((0, 0), *((1, 1),) * axes, (0, 0)))[0]
    corner = padded[(slice(3),) * axes]
    wanted = [np.vdot(corner[..., 2 * (d // 2) :][..., :2], kernel[..., d]) for d in range(4)]
    np.testing.assert_allclose(y[(0, *(0,) * axes)], wanted, rtol=1e-4, atol=1e-5)


def test_sharing_positions_is_having_the_same_ones_and_the_sum_of_their_gradients():
    make = functools.partial(modelzoo.create_model, 'convnext_dcls_test', 3, widths=(8,), depths=(2,))
    shared, apart = make(), make(shares_positions=False)
    x = jax.random.normal(jax.random.key(0), (2, 12, 16, 3))
    params = filled(shared, x)['params']
    copies = jax.tree.map(lambda leaf: leaf, params)
    positions = copies['backbone']['stage0'].pop('positions')
    for block in copies['backbone']['stage0'].values():
        block['mixer']['positions'] = positions
    loss = lambda model, params: jnp.square(model.apply({'params': params}, x)['logits']).sum()
    run = jit(lambda *both: [jax.value_and_grad(functools.partial(loss, m))(p) for m, p in zip((shared, apart), both)])
    (ours, gradients), (theirs, of_copies) = jax.device_get(run(params, copies))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    wanted = sum(block['mixer']['positions'] for block in of_copies['backbone']['stage0'].values())
    np.testing.assert_allclose(gradients['backbone']['stage0']['positions'], wanted, rtol=1e-3, atol=1e-6)
    assert shared.backbone.layers[1:3] == (('stage0/block00', 'stage0/positions'), ('stage0/block01',))


def test_published_files_repeat_the_positions_of_a_stage():
    model = modelzoo.create_model('convnext_dcls_test', 3)
    params = jax.device_get(filled(model, jnp.zeros((1, 8, 8, 3)))['params'])
    names = convnext.NAMES['ConvNeXt']
    published = weights.to_published(names, params)
    assert published['stages.1.0.dwconv.P'].shape == (2, 16, 1, 5)
    assert 'stages.1.1.dwconv.P' not in published
    published['stages.1.1.dwconv.P'] = published['stages.1.0.dwconv.P'].copy()
    loaded = weights.load_published(names, params, published)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    published['stages.1.1.dwconv.P'] += 1
    with pytest.raises(ValueError, match='1 extra: stages.1.1.dwconv.P'):
        weights.load_published(names, params, published)


def test_a_residual_network_takes_it_in_the_place_of_its_convolutions():
    conv = functools.partial(Dcls, use_bias=False, dilated_size=5)
    model = modelzoo.create_model('resnet_test', 3, conv=conv)
    x = jnp.zeros((2, 33, 20, 3))
    features, variables = jax.eval_shape(model.init_with_output, jax.random.key(0), x)
    plain = jax.eval_shape(modelzoo.create_model('resnet_test', 3).init_with_output, jax.random.key(0), x)[0]
    assert jax.tree.map(jnp.shape, features) == jax.tree.map(jnp.shape, plain)
    convs = [
        leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(variables['params'])
        if path[-1].key == 'positions'
    ]
    assert convs and all(shape[0] == 2 and shape[-1] == 9 for shape in convs)


@pytest.mark.parametrize(
    'layer, message',
    [
        (Dcls(4, 3, interpolation='v2'), "interpolation is 'v2', and there are v0, v1, max, gauss: take one"),
        (Dcls(4, 3, groups=3), '4 input and 4 output channels do not divide into 3 groups'),
        (Dcls(4, 3, dilated_size=6), r'a kernel of \(6, 6\) in the place of one of \(3, 3\) has no middle in common'),
        (Dcls(4, (3, 3, 3)), r'a kernel of \(3, 3, 3\) is for 2 axes'),
        (Dcls(4, 3, count=0), 'count is 0: a kernel has at least 1 weight'),
    ],
)
def test_mistakes_are_refused_in_a_sentence(layer: nn.Module, message: str):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)))


def test_what_has_no_positions_shares_none():
    backbone = modelzoo.backbone('convnext_test', shares_positions=True)
    with pytest.raises(ValueError, match='DepthwiseConv has no positions to share: set shares_positions to False'):
        jax.eval_shape(backbone.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
