"""SparseNet: what each layer reads, its sizes, and DenseNet as its limit."""

import jax
import jax.numpy as jnp
import numpy as np

from longview.modelzoo.vision.sparsenet import Aggregate, Layer, SparseNet, aggregated
from tests.modelzoo.tiny import filled, jit


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


def test_what_is_read_lies_powers_of_two_back():
    for count in range(1, 70):
        back = [count - index for index in aggregated(count)]
        assert back == [2**power for power in range(len(back))] and 2 * back[-1] > count >= back[-1]
        assert aggregated(count, dense=True) == tuple(range(count))


def test_the_newest_output_is_first_among_the_channels():
    outputs = tuple(jnp.full((1, 1, 1, 1), float(value)) for value in range(6))
    np.testing.assert_array_equal(Aggregate().close(outputs).ravel(), [5, 4, 2])
    np.testing.assert_array_equal(Aggregate(dense=True).close(outputs).ravel(), range(6))


def test_a_layer_keeps_all_outputs_of_its_stage_and_a_transition_begins_anew():
    s = tuple(normal(2, 5, 6, 4) + k for k in range(3))
    variables = filled(Layer(4), s, None)
    after = jax.device_get(jit(Layer(4).apply)(variables, s, None))
    assert len(after) == 4 and after[3].shape == (2, 5, 6, 4)
    jax.tree.map(np.testing.assert_array_equal, after[:3], s)
    begun = jax.eval_shape(lambda s: Layer(8, transition=6).init_with_output(jax.random.key(0), s, None)[0], s)
    assert [leaf.shape for leaf in begun] == [(2, 3, 3, 6), (2, 3, 3, 8)]


def test_few_layers_read_all_outputs_as_a_dense_network_does():
    """A stage of one layer reads two outputs, which are all there are: only the order of the channels differs."""
    sparse = SparseNet((1, 1), (4, 4), 8)
    dense = sparse.clone(dense=True)
    x = normal(2, 6, 6, 3)
    variables = filled(sparse, x)

    def reordered(path, leaf):
        names = [entry.key for entry in path]
        if 'transition' not in names and names[1] != 'norm':
            return leaf
        return jnp.roll(leaf, -4, axis=max(leaf.ndim - 2, 0))  # the newest output has 4 channels, and comes last

    both = jit(lambda one, other: (sparse.apply(one, x)['pooled'], dense.apply(other, x)['pooled']))
    ours, wanted = jax.device_get(both(variables, jax.tree_util.tree_map_with_path(reordered, variables)))
    np.testing.assert_allclose(np.roll(ours, -4, axis=1), wanted, rtol=1e-5)


def test_aggregation_grows_with_the_logarithm_of_the_depth():
    channels = lambda depth, dense: SparseNet((depth,), (12,), 12, dense=dense).channels[0] // 12
    assert [channels(depth, False) for depth in (1, 3, 7, 15, 1023)] == [2, 3, 4, 5, 11]
    assert [channels(depth, True) for depth in (1, 3, 7, 15, 1023)] == [2, 4, 8, 16, 1024]
