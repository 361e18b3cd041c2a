"""Objects as config nodes, and back."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.methods.ssl.masked import Autoencoder
from longview.methods.ssl.parts import Projected, Projector
from longview.modelzoo import zoo
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.layers.residuals.rezero import ReZero
from longview.runtime.nodes import NoNode, node_of
from longview.runtime.resolve import resolve
from longview.trees import by_path

pytestmark = pytest.mark.quick
ROUND = [
    None,
    3,
    'a',
    [1, [2.5, None]],
    {'a': [True]},
    functools.partial(Linear, 3),
    Projected(zoo.backbone('vit_test'), Projector((8, 4))),
    Autoencoder(zoo.backbone('vit_test', dtype='bfloat16'), 8, 1, 1),
]


def there_and_back(value):
    """Returns a node as it is after it was written as JSON, and the node of what was made of it."""
    node = json.loads(json.dumps(node_of(value)))
    return node, json.loads(json.dumps(node_of(resolve(node))))


@pytest.mark.parametrize('value', ROUND, ids=lambda value: type(value).__name__)
def test_what_is_made_of_a_node_has_the_same_node(value):
    node, again = there_and_back(value)
    assert node == again


def without_initializers(node):
    """Returns a node without the fields that decide only first values."""
    if isinstance(node, dict):
        return {key: without_initializers(value) for key, value in node.items() if not key.endswith('init')}
    return node


def test_every_network_of_the_zoo_has_a_node():
    for name in zoo.list_models():
        node, again = map(without_initializers, there_and_back(zoo.create_model(name)))
        assert node == again, name


@pytest.mark.parametrize('name', ['vit_test', 'resnet_test', 'mixer_test', 'gla_test'])
def test_a_network_made_anew_has_the_same_parameters_and_program(name):
    network = zoo.create_model(name, num_classes=7)
    again = resolve(node_of(network))
    batch = jnp.zeros((2, 16), jnp.int32) if name == 'gla_test' else jnp.zeros((2, 32, 32, 3))
    shapes = [jax.eval_shape(each.init, jax.random.key(0), batch) for each in (network, again)]
    assert by_path(shapes[0]).keys() == by_path(shapes[1]).keys() and shapes[0] == shapes[1]
    programs = [jax.make_jaxpr(each.apply)(shapes[0], batch) for each in (network, again)]
    assert str(programs[0]) == str(programs[1])


def test_a_node_says_slots_types_and_defaults():
    node = node_of(Classifier(zoo.backbone('vit_test', residual=ReZero, dtype='bfloat16'), None))
    assert node['fn'] == 'modelzoo.heads.classify:Classifier' and node['head'] is None
    assert node['backbone']['residual'] == {'partial': 'modelzoo.layers.residuals.rezero:ReZero'}
    assert node['backbone']['dtype'] == {'fn': 'runtime.nodes:dtype', 'name': 'bfloat16'}
    assert node['backbone']['remat'] is False, 'a default that changes later must not change this network'
    assert node_of(jax.nn.relu) == {'partial': 'jax.nn:relu'} and node_of(np.float32) == node_of(jnp.float32)


def test_what_no_config_can_say_is_refused_but_initializers_are_left_out():
    def inside(x):
        return x

    with pytest.raises(NoNode, match=r'network\.a is inside, which cannot be imported by a name|network.a is .*inside'):
        node_of({'a': inside})
    with pytest.raises(NoNode, match='network is a Array|network is a ArrayImpl|which a config cannot say'):
        node_of(jnp.zeros(2))
    assert 'kernel_init' not in node_of(Linear(3, kernel_init=jax.nn.initializers.normal(0.5)))
    with pytest.raises(NoNode):
        node_of(nn.Dense(3, dot_general=lambda *args: None))
