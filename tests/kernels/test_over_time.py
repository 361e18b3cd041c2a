"""Every op of sequences on a mesh that splits their tokens: the numbers of one device, and what is refused."""

import jax
import jax.numpy as jnp
import pytest

from longview.kernels import dispatch
from longview.kernels.long_conv import long_conv
from tests.kernels.close import assert_close
from tests.kernels.ops import OPS
from tests.modelzoo import tiny

SEQUENCES = ('gla', 'bidirectional_gla', 'selective_scan', 'linear_scan', 'long_conv', 'causal_conv1d')
TOKENS = 21  # of `OPS`


def mesh(**axes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(jax.sharding.AxisType.Auto,) * len(axes))


def sliced(op, tokens):
    """Returns the op, called with as many tokens."""
    shapes = {name: tuple(tokens if size == TOKENS else size for size in shape) for name, shape in op.shapes.items()}
    return op._replace(shapes=shapes)


def _slope(op):
    """Returns the outputs, and the gradients of a loss that is not linear in them, by name."""

    def run(arrays):
        loss = lambda arrays: (lambda found: (sum(jnp.sum(jnp.sin(y)) for y in found), found))(op(arrays))
        (_, found), gradients = jax.value_and_grad(loss, has_aux=True)(arrays)
        return {f'output {n}': y for n, y in enumerate(found)} | gradients

    return run


@pytest.mark.parametrize('name', SEQUENCES)
def test_tokens_that_the_mesh_splits_change_no_number(name):
    """Batch, tokens and channels at once, and again with a batch and channels that do not divide."""
    op = sliced(OPS[name], 16)
    arrays = op.arrays()
    wanted = jax.device_get(tiny.jit(_slope(op))(arrays))
    for axes in ({'data': 2, 'sequence': 2, 'tensor': 2}, {'data': 4, 'sequence': 2}):
        with jax.set_mesh(mesh(**axes)):
            lowered = tiny.jit(_slope(op)).lower(arrays)
            assert 'manual_computation' in lowered.as_text()
            found = jax.device_get(lowered.compile()(arrays))
        assert_close(found, wanted, dict.fromkeys(wanted, 5e-6))


def test_a_single_token_and_a_mesh_of_one_are_left_alone():
    for tokens, axes in ((1, {'sequence': 8}), (TOKENS, {'sequence': 1, 'data': 8})):
        op = sliced(OPS['selective_scan'], tokens)
        with jax.set_mesh(mesh(**axes)):
            assert 'manual_computation' not in tiny.jit(op.__call__).lower(op.arrays()).as_text()


@pytest.mark.parametrize('name', SEQUENCES)
def test_tokens_that_do_not_divide_are_refused_in_words(name):
    words = f"{name}: 21 tokens do not divide over the 4 devices of the mesh axis 'sequence'; wanted a multiple of 4"
    with jax.set_mesh(mesh(data=2, sequence=4)), pytest.raises(ValueError, match=words):
        jax.eval_shape(OPS[name].__call__, OPS[name].arrays())


@pytest.mark.parametrize(
    'how, words',
    [
        ({'backward_kernel': jnp.ones((3, 8))}, 'has taps into the future'),
        ({'circular': True}, 'has taps into the future'),
        ({'kernel': jnp.ones((2, 16, 8))}, 'has a kernel for each sequence'),
        ({'kernel': jnp.ones((5, 8))}, 'has 5 taps for 16 tokens'),
        ({'frequencies': 0.5}, 'keeps 0.5 of the frequencies'),
    ],
)
def test_long_convolutions_that_cannot_be_split_say_why(how, words):
    arrays = {'u': jnp.ones((2, 16, 8)), 'kernel': jnp.ones((16, 8))}
    with (
        jax.set_mesh(mesh(data=2, sequence=4)),
        pytest.raises(ValueError, match=f'long_conv {words}, which cannot be split over the 4 '),
    ):
        long_conv(**arrays | how)


def test_an_op_without_tokens_is_whole_on_every_device_of_the_axis():
    """The axis splits neither a batch nor channels."""
    seen, rows = [], (dispatch.BATCH, dispatch.WIDTH)
    forms = {'xla': dispatch.Form(lambda x: x), 'kernel': dispatch.Form(lambda x: (seen.append(x.shape), x)[1], 'cpu')}
    run = lambda x: dispatch.run('op', 'kernel', forms, x, split=dispatch.Split((rows,), rows))
    with jax.set_mesh(mesh(data=2, sequence=2, tensor=2)):
        jax.eval_shape(jax.jit(run), jnp.ones((8, 4)))
    assert set(seen) == {(4, 2)}
