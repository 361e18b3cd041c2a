"""Hyper- and frac-connections in each of their forms, and values that heads share, against sums written out."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview.modelzoo.heads import Classifier, LanguageHead
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.residuals.frac_connections import FracConnections
from longview.modelzoo.layers.residuals.hyper_connections import HyperConnections
from longview.modelzoo.layers.residuals.value_residual import SharedValue
from longview.modelzoo.sequence.resformer import resformer
from longview.modelzoo.vision.vit import ViT
from tests.modelzoo.tiny import filled, jit


def draw(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def both(join, s, y):
    """Returns what a branch reads, and the stream after it."""
    return join.read(s), join.write(s, y)


@pytest.mark.parametrize('tanh', [True, False])
def test_copies_in_one_fraction_are_hyper_connections(tanh):
    s, y = draw(2, 3, 5, 8), draw(2, 5, 8, seed=1)
    hyper, frac = HyperConnections(3, tanh=tanh), FracConnections(1, streams=3, tanh=tanh)
    variables = {'params': {**filled_by(hyper, s), 'dynamic_alpha_scale': 0.7, 'dynamic_beta_scale': 0.6}}
    column = variables['params']['dynamic_beta_kernel'][:, None]
    other = {'params': {**variables['params'], 'dynamic_beta_kernel': column}}
    run = jit(lambda: (hyper.apply(variables, s, y, method=both), frac.apply(other, s, y, method=both)))
    wanted, found = jax.device_get(run())
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def filled_by(join, s):
    """Returns parameters without structure, all of the size of 1."""
    shapes = jax.eval_shape(functools.partial(join.init, method='read'), jax.random.key(0), s)['params']
    flat = {name: draw(*leaf.shape, seed=index) for index, (name, leaf) in enumerate(sorted(shapes.items()))}
    return {**flat, 'norm_scale': flat['norm_scale'] / 10}


def written_out(params, s, y, fractions, streams, across, tanh):
    """The sums of release 0.4.11 over fractions f, g and copies c, d; the static weights of g are for all f alike."""
    read, after = np.zeros_like(y), np.zeros_like(s)
    bend = np.tanh if tanh else lambda x: x
    piece = lambda x, f: np.split(x, fractions, axis=-1)[f]
    for b, t, f, c in itertools.product(range(len(s)), range(s.shape[2]), range(fractions), range(streams)):
        x = piece(s[b, c, t], f)
        normed = x / np.sqrt(np.square(x).mean()) * (1 + params['norm_scale'])
        alpha = params['static_alpha'].reshape(fractions, streams, -1)[f, c]
        alpha = alpha + bend(normed @ params['dynamic_alpha_kernel']) * params['dynamic_alpha_scale']
        beta = params['static_beta'].reshape(streams, fractions)[c]
        beta = beta + bend(normed @ params['dynamic_beta_kernel']) * params['dynamic_beta_scale']
        for g in range(fractions):
            weights = alpha.reshape(fractions, 1 + streams)[g]
            piece(read[b, t], g)[:] += weights[0] * x
            for d in range(streams):
                piece(after[b, d, t], g)[:] += weights[1 + d] * x
            if across or f == g:
                piece(after[b, c, t], g)[:] += beta[g] * piece(y[b, t], f)
    return read, after


@pytest.mark.parametrize('across, tanh', [(False, True), (True, False)])
def test_copies_in_fractions_are_the_sums_written_out(across, tanh):
    s, y = draw(2, 3, 2, 8), draw(2, 2, 8, seed=1)
    join = FracConnections(2, streams=3, across=across, tanh=tanh)
    params = filled_by(join, s)
    found = jax.device_get(jit(lambda: join.apply({'params': params}, s, y, method=both))())
    wanted = written_out(*jax.device_get((params, s, y)), 2, 3, across, tanh)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), found, wanted)


@pytest.mark.parametrize('dynamic', [True, False])
def test_copies_in_fractions_begin_as_the_plain_residual_network(dynamic):
    x, f = draw(2, 4, 8), lambda x: jnp.sin(3 * x)

    @jit
    def run():
        join = FracConnections(2, streams=3, dynamic=dynamic)
        s, plain = join.open(x), x
        for branch in range(4):
            join = FracConnections(2, streams=3, dynamic=dynamic, branch=branch, branches=4)
            variables = join.init(jax.random.key(0), s, method='read')
            y = f(join.apply(variables, s, method='read'))
            s, plain = join.apply(variables, s, y, method='write'), plain + f(plain)
        s = join.carry(s, lambda x: 2 * x)
        return join.close(s), 6 * plain

    ours, plain = jax.device_get(run())
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-5)


def test_a_vit_of_narrow_heads_shares_values_of_their_width_alone():
    attention = functools.partial(Attention, head_width=2)
    network = ViT(8, 2, 2, patch=4, image_size=8, residual=SharedValue, mixer=attention)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))['params']
    assert [params[f'block{index:02d}']['mixer']['out']['kernel'].shape for index in (0, 1)] == [(4, 8)] * 2
    wide = network.clone(mixer=functools.partial(Attention, head_width=8))
    with pytest.raises(
        ValueError, match='values have 16 channels and the stream has room for 8: use a smaller head_width'
    ):
        jax.eval_shape(wide.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))


@pytest.mark.parametrize('variant', ['resformer_test', 'svformer_test'])
def test_heads_that_share_keys_and_values_are_those_of_a_network_that_repeats_them(variant):
    made = functools.partial(resformer, variant, heads=4, depth=3, ratio=1.5, places=6)
    few, all_heads = (Classifier(made(kv_heads=n), LanguageHead(32)) for n in (2, None))
    words = jnp.asarray(np.random.default_rng(0).integers(0, 32, (2, 6)))
    variables = filled(few, words)

    def repeated(path, kernel):
        if path[-2] not in ('k', 'v'):
            return kernel
        return jnp.repeat(kernel.reshape(16, 2, 4), 2, axis=1).reshape(16, 16)

    flat = traverse_util.flatten_dict(variables['params'])
    wide = {'params': traverse_util.unflatten_dict({path: repeated(path, leaf) for path, leaf in flat.items()})}
    assert flat['backbone', 'block00', 'mixer', 'v', 'kernel'].shape == (16, 8)
    assert flat['backbone', 'block00', 'mlp', 'up', 'kernel'].shape == (16, 24)

    @jit
    def run():
        state = few.apply(variables, 2, method='init_state')
        _, features = few.apply(variables, state, words, method='extend')
        whole = [network.apply(values, words)['logits'] for network, values in ((few, variables), (all_heads, wide))]
        return *whole, features['logits'], state

    found, wanted, decoded, state = jax.device_get(run())
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(decoded, wanted, rtol=1e-4, atol=1e-5)
    assert {leaf.shape for leaf in jax.tree.leaves(state.blocks) if leaf.ndim} == {(2, 2, 6, 4)}  # the cache
    with pytest.raises(ValueError, match='4 heads do not share 3 heads of keys and values: change one of the two'):
        jax.eval_shape(made(kv_heads=3).init, jax.random.key(0), words)
