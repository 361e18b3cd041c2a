"""FractalNet: the wiring of a block by its recursion, what drop-path draws, and the answers of single columns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.vision.fractalnet import Fractal, FractalNet, Unit, draw_joins, present
from tests.modelzoo.tiny import filled, jit


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_a_block_is_the_paper_s_recursion():
    """``f_1 = conv``, and ``f_C`` the outputs of ``f_{C-1}`` after its own joined outputs, and of one more column."""
    block, x = Fractal(5, 4), normal(2, 4, 3, 5)
    variables = filled(block, x, None, None)

    def outputs(x, columns, last, variables):
        """The outputs, deepest first, of the columns from `4 - columns` on, in the part that ends at depth `last`."""
        unit = {kind: tree[f'column{4 - columns}_layer{last}'] for kind, tree in variables.items()}
        shallow = Unit(5).apply(unit, x, None)
        if columns == 1:
            return [shallow]
        half = outputs(x, columns - 1, last - 2 ** (columns - 2), variables)
        return [*outputs(sum(half) / len(half), columns - 1, last, variables), shallow]

    both = jit(lambda v: (block.apply(v, x, None, None), sum(outputs(x, 4, 7, v)) / 4))
    np.testing.assert_allclose(*jax.device_get(both(variables)), rtol=1e-5, atol=1e-6)


def test_columns_meet_where_they_have_the_same_depth():
    np.testing.assert_array_equal(present(3), [[0, 0, 1], [0, 1, 1], [0, 0, 1], [1, 1, 1]])
    for columns in range(1, 7):
        assert present(columns).sum(0).tolist() == [2**column for column in range(columns)]


def test_a_join_drops_each_input_with_its_rate_and_never_all():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = lambda keys: [draw_joins(keys, 2, 3, local=local, alone=0.0) for local in (0.5, 0.0, 1.0)]
    half, none, one = jax.device_get(jit(draw)(keys))
    local = np.moveaxis(half, -1, 0)
    np.testing.assert_allclose(local.sum(-1), 1, rtol=1e-6)
    assert not local[:, :, ~present(3)].any()
    pair, three = local[:, :, 1, 1:] > 0, local[:, :, 3] > 0
    # All are dropped by a chance of 2^-n, and then one of n is kept.
    np.testing.assert_allclose(pair.mean((0, 1)), 1 / 2 + 1 / 8, atol=0.03)
    np.testing.assert_allclose(three.mean((0, 1)), 1 / 2 + 1 / 24, atol=0.03)
    np.testing.assert_allclose(none[:, 3], 1 / 3, rtol=1e-6)
    assert ((one == 0) | (one == 1)).all()


def test_half_of_the_examples_are_left_to_one_column_the_same_in_every_block():
    keys = jax.random.split(jax.random.key(1), 4000)
    share = jax.device_get(jit(functools.partial(draw_joins, blocks=3, columns=3, local=0.0, alone=0.5))(keys))
    last = np.moveaxis(share[:, 3], -1, 0)
    alone = (last == 1).any((1, 2))
    assert 0.47 < alone.mean() < 0.53
    np.testing.assert_allclose(last[~alone], 1 / 3, rtol=1e-6)
    columns = last[alone].argmax(-1)
    assert (columns == columns[:, :1]).all()
    np.testing.assert_allclose(np.bincount(columns[:, 0]) / alone.sum(), 1 / 3, atol=0.04)


def test_an_example_left_to_a_column_gets_the_answer_of_that_column():
    """Norms use running averages here, so that an example does not depend on the others."""
    block, x = Fractal(4, 3), normal(3, 4, 4, 4)
    variables = filled(block, x, None, None)
    joins = np.zeros((4, 3, 3), np.float32)
    for column in range(3):
        joins[present(3)[:, column], column, column] = 1
    run = jit(
        lambda v: (
            block.apply(v, x, jnp.asarray(joins), None),
            [block.clone(column=column).apply(v, x, None, None)[column] for column in range(3)],
        )
    )
    ours, wanted = jax.device_get(run(variables))
    np.testing.assert_allclose(ours, np.stack(wanted), rtol=1e-5, atol=1e-6)


def test_a_column_has_the_parameters_of_the_whole_network():
    x = jax.ShapeDtypeStruct((1, 16, 16, 3), 'float32')
    whole, alone = (
        jax.eval_shape(FractalNet((4, 8), column=column).init, jax.random.key(0), x) for column in (None, 0)
    )
    assert jax.tree.map(jnp.shape, whole) == jax.tree.map(jnp.shape, alone)


def test_doubling_moves_the_change_of_width_before_the_columns():
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), 'float32')
    params = jax.eval_shape(Fractal(6, 2, doubling=True).init, jax.random.key(0), x, None, None)['params']
    assert {name: params[name]['conv']['kernel'].shape for name in params} == {
        'doubler': (1, 1, 3, 6),
        'column0_layer1': (3, 3, 6, 6),
        'column1_layer0': (3, 3, 6, 6),
        'column1_layer1': (3, 3, 6, 6),
    }


@pytest.mark.parametrize(
    'fields, sentence',
    [
        ({'column': 3}, r'FractalNet\.column is 3: use 0 to 2, or None for all columns\.'),
        ({'global_drop': 2.0}, r'FractalNet\.global_drop is 2\.0: it is a probability, from 0 to 1\.'),
    ],
)
def test_what_is_out_of_range_is_refused(fields, sentence):
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(FractalNet(**fields).init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
