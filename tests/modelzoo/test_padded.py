"""Networks that read words or points with a padding mask: what is there decides, and what is not changes no number."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from longview.modelzoo import features as ft
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.attention.masked import MaskedAttention
from longview.modelzoo.points.pointnet import PointNet
from longview.modelzoo.text.transformer import Transformer
from tests.modelzoo.tiny import filled, jit

RNG = np.random.default_rng(0)
# What two programs of the same sums may differ by, as in test_contract.py.
ROUNDING = 2e-5
LENGTHS = np.array([5, 3, 1, 0])
THERE = np.arange(5)[None] < LENGTHS[:, None]
WORDS = RNG.integers(0, 11, (4, 5), dtype=np.int32)
WAYS = [(False, 'mean'), (True, 'last')]


def text(**fields) -> Transformer:
    return Transformer(**{'vocabulary': 11, 'width': 8, 'depth': 2, 'heads': 2, 'places': 9} | fields)


def close(ours, wanted) -> None:
    np.testing.assert_allclose(ours, wanted, rtol=ROUNDING, atol=ROUNDING)


@functools.cache
def variables_of(network) -> dict:
    """Returns variables without structure of a network that reads WORDS or POINTS."""
    columns = (WORDS, THERE) if isinstance(network, Transformer) else (POINTS, FEW)
    return _filled(network, columns)


def _filled(network, columns) -> dict:
    class Joined:
        """One argument in the place of two, as `filled` gives it."""

        init = staticmethod(lambda rng, columns: network.init(rng, *columns))

    return filled(Joined, columns)


@functools.cache
def read(causal: bool, pool: str) -> dict[str, dict]:
    """Returns what one program gives of some texts, and of the same with other or more padding, or another word."""
    network = text(causal=causal, pool=pool)
    variables = variables_of(network)
    garbage = np.where(THERE, WORDS, 10 - WORDS)
    longer = np.concatenate([WORDS, np.full((4, 3), 7, np.int32)], axis=1)
    third = WORDS.copy()
    third[0, 2] = (third[0, 2] + 1) % 11
    valid = np.concatenate([THERE, np.zeros((4, 3), bool)], axis=1)

    texts = {'plain': (WORDS, THERE), 'garbage': (garbage, THERE), 'third': (third, THERE), 'longer': (longer, valid)}
    run = jit(lambda texts: {name: network.apply(variables, *columns) for name, columns in texts.items()})
    return jax.device_get(run(texts))


@pytest.mark.parametrize('causal, pool', WAYS)
def test_padding_of_words_changes_no_number(causal, pool):
    found = read(causal, pool)
    for other in ('garbage', 'longer'):
        close(found[other][ft.POOLED][:3], found['plain'][ft.POOLED][:3])
        close(found[other][ft.TOKENS][:, :5][THERE], found['plain'][ft.TOKENS][THERE])
    assert all(np.isfinite(value).all() for value in found['plain'].values())


@pytest.mark.parametrize('causal, pool', WAYS)
def test_a_word_is_seen_by_those_behind_it_and_before_it_only_without_a_causal_mask(causal, pool):
    found = read(causal, pool)
    moved = abs(found['third'][ft.TOKENS][0] - found['plain'][ft.TOKENS][0]).max(axis=1)
    assert (moved[2:] > 1e-3).all()
    assert (moved[:2] < ROUNDING).all() if causal else (moved[:2] > 1e-3).all()
    close(found['third'][ft.TOKENS][1], found['plain'][ft.TOKENS][1])


def test_pooled_is_the_last_word_or_the_mean_of_all():
    means, lasts = (read(*way)['plain'] for way in WAYS)
    for row, length in enumerate(LENGTHS[:3]):
        close(means[ft.POOLED][row], means[ft.TOKENS][row, :length].mean(axis=0))
        close(lasts[ft.POOLED][row], lasts[ft.TOKENS][row, length - 1])


def test_where_all_is_seen_attention_is_the_plain_one():
    plain, x = Attention(2), RNG.normal(size=(2, 5, 8)).astype(np.float32)
    variables = filled(plain, x)
    masked = MaskedAttention(jnp.ones((2, 5, 5), bool), 2)
    ours, wanted = jit(lambda x: (masked.apply(variables, x), plain.apply(variables, x)))(x)
    close(ours, wanted)


def test_recomputed_and_scanned_blocks_change_no_number():
    plain = text(drop_path=0.2)
    variables = variables_of(plain) | {'example': {'row': np.arange(4)}}

    def answer(network, params):
        rngs = {'drop_path': jax.random.key(1)}
        given = variables | {'params': params}
        features = network.apply(given, jnp.asarray(WORDS), jnp.asarray(THERE), train=True, rngs=rngs)
        return jnp.sum(jnp.sin(features[ft.POOLED]))

    networks = (plain, plain.clone(remat=True, scan=True))
    run = jit(lambda params: [jax.value_and_grad(functools.partial(answer, each))(params) for each in networks])
    wanted, ours = jax.device_get(run(variables['params']))
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5), ours, wanted)
    assert all(gradient.any() for gradient in jax.tree.leaves(ours[1]))


def test_a_text_that_is_too_long_or_an_unknown_pool_is_refused():
    words = jax.ShapeDtypeStruct((1, 10), 'int32'), jax.ShapeDtypeStruct((1, 10), 'bool')
    with pytest.raises(ValueError, match='10 words are more than the 9 places'):
        jax.eval_shape(text().init, jax.random.key(0), *words)
    with pytest.raises(ValueError, match="pool is 'first': use one of last, mean"):
        jax.eval_shape(text(pool='first').init, jax.random.key(0), *words)


POINTS = RNG.normal(size=(4, 5, 3)).astype(np.float32)
FEW = THERE


@functools.cache
def seen(pool: str) -> dict[str, dict]:
    """Returns what one program gives of some sets of points, and of the same turned round, or with other padding."""
    network, bare = PointNet((6, 8), (4,), pool), PointNet((), (), pool)
    variables = variables_of(network)
    more = np.concatenate([POINTS, np.full((4, 2, 3), 9, np.float32)], axis=1)
    valid = np.concatenate([FEW, np.zeros((4, 2), bool)], axis=1)
    garbage = np.where(FEW[..., None], POINTS, 7)

    sets = {
        'plain': (POINTS, FEW),
        'garbage': (garbage, FEW),
        'turned': (POINTS[:, ::-1], FEW[:, ::-1]),
        'more': (more, valid),
    }

    @jit
    def run(sets):
        total = lambda params: jnp.sum(network.apply({'params': params}, *sets['plain'])[ft.POOLED] ** 2)
        return {
            **{name: network.apply(variables, *columns) for name, columns in sets.items()},
            'bare': bare.apply({}, *sets['garbage']),
            'gradient': jax.grad(total)(variables['params']),
        }

    return jax.device_get(run(sets))


@pytest.mark.parametrize('pool', ['max', 'mean'])
def test_neither_order_nor_padding_of_points_changes_a_number(pool):
    found = seen(pool)
    for other in ('garbage', 'turned', 'more'):
        close(found[other][ft.POOLED], found['plain'][ft.POOLED])
    close(found['turned'][ft.TOKENS][:, ::-1], found['plain'][ft.TOKENS])
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(found['gradient']))
    assert abs(np.diff(found['plain'][ft.POOLED], axis=0)).max(axis=1).min() > 1e-3, 'all sets look alike'


@pytest.mark.parametrize('pool, over', [('max', np.max), ('mean', np.mean)])
def test_points_themselves_are_pooled_where_no_layer_is_on_them(pool, over):
    wanted = [over(POINTS[row, :length], axis=0) if length else np.zeros(3) for row, length in enumerate(LENGTHS)]
    close(seen(pool)['bare'][ft.POOLED], wanted)


def test_an_unknown_pool_of_points_is_refused():
    with pytest.raises(ValueError, match="pool is 'sum': use one of max, mean"):
        jax.eval_shape(PointNet(pool='sum').init, jax.random.key(0), POINTS, FEW)


@pytest.mark.parametrize('network', [text(), PointNet((6, 8), (4,))], ids=['text', 'points'])
def test_every_parameter_has_one_depth(network):
    for path in traverse_util.flatten_dict(variables_of(network)['params'], sep='/'):
        owners = [
            depth for depth, group in enumerate(network.layers) for each in group if f'{path}/'.startswith(f'{each}/')
        ]
        assert owners == [network.layer_of(f'image/backbone/{path}')]
