"""Hierarchical residuals of a ResNet: nothing at the start, sizes of any image, gradients straight to the stem."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo.layers.residuals.hierarchical import HierarchicalResidual
from longview.modelzoo.layers.residuals.hyper_connections import HyperConnections
from longview.trees import by_path, path_of
from tests.modelzoo.tiny import filled, jit

PLAIN = modelzoo.backbone('resnet18', depths=(1, 1, 1), widths=(4, 8, 12), stem_width=4, stem_stride=1)
OUTPUT, INPUT, BOTH = (
    PLAIN.clone(across=functools.partial(HierarchicalResidual, into=into)) for into in ('output', 'input', 'both')
)


def noise(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def across(path: str) -> bool:
    return '_output/' in path or '_input/' in path


def sizes(backbone) -> dict[str, int]:
    params = jax.eval_shape(backbone.init, jax.random.key(0), jnp.ones((1, 9, 6, 3)))['params']
    return {path: leaf.size for path, leaf in by_path(params).items() if across(path)}


def test_there_is_a_projection_for_each_pair_of_levels_but_neighbours():
    pairs = {'output': [(4, 8), (4, 12), (4, 12)], 'input': [(4, 4), (4, 8), (4, 8)]}
    for backbone, kinds in ((OUTPUT, ('output',)), (INPUT, ('input',)), (BOTH, ('output', 'input'))):
        found = sizes(backbone)
        assert sum(found.values()) == sum(a * b + 2 * b for kind in kinds for a, b in pairs[kind])
        assert {path.partition('/')[0] for path in found} == {f'stage{k}_{kind}' for k in (1, 2) for kind in kinds}
    assert not sizes(PLAIN)


@pytest.mark.parametrize('side', [(9, 6), (7, 5), (8, 8)])
def test_sizes_are_those_without_whatever_the_image(side):
    x = jnp.ones((1, *side, 3))
    shapes = lambda net: jax.tree.map(jnp.shape, jax.eval_shape(net.init_with_output, jax.random.key(0), x)[0])
    assert shapes(BOTH) == shapes(PLAIN)


def test_scales_of_0_are_the_plain_network_to_the_bit_and_they_learn():
    x = noise(2, 9, 6, 3)
    variables = filled(BOTH, x)
    start = lambda path, leaf: leaf * (not (across(path) and path.endswith(('scale', 'bias'))))
    params = jax.tree_util.tree_map_with_path(lambda path, leaf: start(path_of(path), leaf), variables['params'])
    keep = lambda tree: {k: v for k, v in tree.items() if not k.endswith(('_output', '_input'))}
    plain = {'params': keep(params), 'batch_stats': keep(variables['batch_stats'])}

    def loss(params):
        features = BOTH.apply({**variables, 'params': params}, x)
        return jnp.sum(jnp.sin(features['pooled'])), features

    run = lambda: (jax.grad(loss, has_aux=True)(params), PLAIN.apply(plain, x))
    (gradients, ours), wanted = jax.device_get(jit(run)())
    jax.tree.map(np.testing.assert_array_equal, ours, wanted)
    gradients = {path: leaf for path, leaf in by_path(gradients).items() if across(path)}
    assert all(leaf.any() == path.endswith(('scale', 'bias')) for path, leaf in gradients.items())


def test_scales_start_at_0():
    part = HierarchicalResidual()
    params = jit(lambda: part.init(jax.random.key(0), noise(1, 2, 2, 3), [noise(1, 4, 3, 2)], [2]))()['params']
    assert not params['norm0']['scale'].any() and params['conv0']['kernel'].all()


def test_without_the_stages_the_projections_of_the_stem_remain():
    """With all kernels of the stages at 0 the last map is what the projections add."""
    x = noise(2, 9, 6, 3)
    variables = filled(OUTPUT, x)

    def zero(path, leaf):
        path = path_of(path)
        if across(path):
            return jnp.ones_like(leaf) if path.endswith('scale') else leaf
        return leaf if path.startswith('stem') else jnp.zeros_like(leaf)

    variables = {**variables, 'params': jax.tree_util.tree_map_with_path(zero, variables['params'])}

    def stem(scale):
        params = {**variables['params'], 'stem': {**variables['params']['stem']}}
        norm = params['stem']['norm']
        params['stem']['norm'] = {**norm, 'bias': norm['bias'] + scale}
        return jnp.sum(jnp.sin(OUTPUT.apply({**variables, 'params': params}, x)['map']))

    run = lambda: (OUTPUT.apply(variables, x), jax.grad(stem)(0.0))
    features, gradient = jax.device_get(jit(run)())
    part = jax.device_get(variables['params']['stage2_output'])
    stats = jax.device_get(variables['batch_stats']['stage2_output'])
    wanted = np.zeros((2, 3, 2, 12), np.float32)
    for index, (level, stride) in enumerate([('stem', 4), ('stage0', 4)]):
        y = features[level][:, ::stride, ::stride] @ part[f'conv{index}']['kernel'][0, 0]
        mean, var = (stats[f'norm{index}'][name] for name in ('mean', 'var'))
        wanted += (y - mean[None, None, None]) / np.sqrt(var + 1e-5)[None, None, None]
        wanted += part[f'norm{index}']['bias'][None, None, None]
    np.testing.assert_allclose(features['map'], wanted, rtol=1e-4, atol=1e-4)
    assert gradient != 0


def test_another_place_is_refused():
    with pytest.raises(ValueError, match="HierarchicalResidual.into is 'outputs': use 'output', 'input' or 'both'"):
        sizes(PLAIN.clone(across=functools.partial(HierarchicalResidual, into='outputs')))


def test_a_stream_of_several_maps_is_refused():
    with pytest.raises(NotImplementedError, match='HyperConnections carries more than one map .* use residual.Add'):
        sizes(OUTPUT.clone(residual=HyperConnections))


def test_depths_are_those_of_the_blocks():
    assert BOTH.layers[2] == ('stage1/block00', 'stage1_input', 'stage1_output')
    assert len(BOTH.layers) == len(PLAIN.layers)
