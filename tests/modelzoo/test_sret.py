"""SReT: slices and their order, blocks that are used twice, their rates of stochastic depth, and published names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview import modelzoo
from longview.modelzoo import weight_names
from longview.modelzoo.vision import sret
from tests.modelzoo.tiny import deep_ones_heavy, filled, jit, shapes


@pytest.mark.parametrize('name', deep_ones_heavy(sret.PUBLISHED))
def test_parameter_counts_are_published(name):
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes(name).params))
    assert abs(count / 1e6 - sret.PUBLISHED[name].params) < 0.06


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def slice_means(x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(x.mean(1, keepdims=True), x.shape)


def test_slices_are_contiguous_and_mixed_apart():
    x = normal(0, 2, 12, 3)
    mixed = np.asarray(sret.sliced(slice_means, x, 3))
    wanted = np.repeat(np.asarray(x).reshape(2, 3, 4, 3).mean(2), 4, axis=1)
    np.testing.assert_allclose(mixed, wanted, atol=1e-6)


def test_tokens_in_another_order_come_back_to_their_places():
    x = normal(0, 1, 12, 2)
    places = np.random.default_rng(7).permutation(12).reshape(3, 4)
    mixed, same = (np.asarray(sret.sliced(mixer, x, 3, order=7))[0] for mixer in (slice_means, lambda x: x))
    np.testing.assert_array_equal(same, x[0])
    for group in places:
        np.testing.assert_allclose(mixed[group], np.tile(np.asarray(x)[0, group].mean(0), (4, 1)), atol=1e-6)


def test_where_slices_do_not_divide_the_tokens_there_are_fewer():
    seen = []
    sret.sliced(lambda x: seen.append(x.shape) or x, jnp.zeros((1, 10, 2)), 4)
    assert seen == [(2, 5, 2)]


def test_a_block_used_twice_is_one_used_once_after_another_with_its_parameters():
    x = normal(0, 1, 2, 3, 4)
    twice = sret.Block(2, (1, 1))
    params = jax.device_get(filled(twice, x, None))['params']
    shared = {name: value for name, value in params.items() if not name.startswith('between')}
    once = jit(lambda params, x: sret.Block(2, (1,)).apply({'params': params}, x, None))
    y = once(shared | {'between0': params['between0']}, x)
    y = once(shared | {'between0': params['between1']}, y)
    wanted = jit(lambda params, x: twice.apply({'params': params}, x, None))(params, x)
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_shared_blocks_have_the_rates_of_their_first_uses(monkeypatch):
    seen = []

    def masks(module, rate, depth, batch, *, branches, train):
        seen.append((rate, depth, branches))
        return jnp.broadcast_to(jnp.arange(depth, dtype=jnp.float32)[:, None, None], (depth, branches, batch))

    monkeypatch.setattr(sret, 'path_masks', masks)
    backbone = sret.SReT(drop_path=0.2)
    stages = [np.asarray(stage)[:, 0, 0].tolist() for stage in backbone._masks(1, train=True)]
    assert seen == [(pytest.approx(0.19), 20, 4)]
    assert stages == [[0, 1], [4, 5, 6, 7, 8], [14, 15, 16]]


def test_what_files_have_twice_is_read_once():
    names = modelzoo.find('sret_t')[0].NAMES['SReT']
    ours = lambda place: weight_names.our_path(names, f'transformers.1.blocks.{place}.mlp.fc1.weight')
    here = 'backbone/stage1/'
    assert [ours(place) for place in range(4, 8)] == [
        f'{here}block01/mlp/up/kernel',
        f'{here}block01/between0/mlp/up/kernel',
        '',
        f'{here}block01/between1/mlp/up/kernel',
    ]
