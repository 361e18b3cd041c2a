import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from longview.modelzoo.heads import Classifier
from longview.runtime.mesh import MeshConfig, make_mesh, tree_shardings
from tests.toys import Head, Net

pytestmark = pytest.mark.quick

TREE = {
    'params': {
        'block00': {'qkv_proj': {'kernel': jnp.zeros((128, 384))}, 'norm': {'scale': jnp.zeros((128,))}},
        'odd': {'kernel': jnp.zeros((129, 384))},
    }
}


def specs(config: MeshConfig) -> dict:
    shardings = tree_shardings(TREE, make_mesh(config), config)
    return {
        jax.tree_util.keystr(k, simple=True, separator='/'): s.spec
        for k, s in jax.tree_util.tree_leaves_with_path(shardings)
    }


@pytest.mark.parametrize('sizes', [(8, 1, 1), (-1, 1, 1), (2, -1, 1), (2, 2, -1), (-1, 8, 1)])
def test_mesh_uses_every_device(sizes: tuple[int, int, int]) -> None:
    assert make_mesh(MeshConfig(*sizes)).devices.size == 8


@pytest.mark.parametrize('sizes', [(3, 1, 1), (-1, 3, 1), (-1, -1, 1), (4, 1, 1), (0, -1, 1)])
def test_mesh_that_does_not_fit_is_refused(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match='does not fit 8 devices'):
        make_mesh(MeshConfig(*sizes))


def test_fsdp_splits_the_longest_axis_it_divides() -> None:
    found = specs(MeshConfig(2, 4, 1))
    assert found['params/block00/qkv_proj/kernel'] == P(None, 'fsdp')
    assert found['params/odd/kernel'] == P(None, 'fsdp')
    assert found['params/block00/norm/scale'] == P()


def test_rules_come_first() -> None:
    found = specs(MeshConfig(2, 2, 2, rules=(('qkv_proj/kernel', (None, ('fsdp', 'tensor'))),)))
    assert found['params/block00/qkv_proj/kernel'] == P(None, ('fsdp', 'tensor'))
    assert found['params/odd/kernel'] == P(None, 'fsdp')


@pytest.mark.parametrize(
    'rule, words',
    [
        (('no_such', ('tensor',)), 'matches no array'),
        (('odd/kernel', ('tensor',)), 'of size 129, into 2 parts'),
        (('scale', ('tensor', None)), 'gives 2 axes'),
        (('scale', ('tnesor',)), "names the axis 'tnesor'"),
    ],
)
def test_rules_that_cannot_hold_are_refused(rule: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        specs(MeshConfig(2, 2, 2, rules=(rule,)))


def test_networks_take_our_mesh_and_refuse_explicit_axes() -> None:
    """jax's own default for a mesh is explicit axes; what comes of them inside a network explains nothing."""
    model = Classifier(Net(), Head())

    def logits(mesh: jax.sharding.Mesh) -> tuple[int, ...]:
        image = jax.ShapeDtypeStruct((8, 4, 4, 1), jnp.float32, sharding=NamedSharding(mesh, P('data')))
        variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((8, 4, 4, 1)))
        return jax.eval_shape(model.apply, variables, image)['logits'].shape

    assert logits(make_mesh(MeshConfig())) == (8, 10)
    with pytest.raises(ValueError, match=r'explicit axes \(data\), .* axis_types=\(jax.sharding.AxisType.Auto,\) \* 1'):
        logits(jax.make_mesh((8,), ('data',)))
