"""What the tests of networks share: a quick jit, parameters without structure, and one trace of each network."""

import collections
import fnmatch
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import traverse_util
from jax.extend import core

from longview import counting, modelzoo
from longview.modelzoo import __main__ as listing
from longview.modelzoo.features import IMAGE, SequenceBackbone, read_by
from longview.modelzoo.heads import Classifier
from tests import goldens

jit = functools.partial(jax.jit, compiler_options=goldens.QUICK)


def filled(module: nn.Module, *inputs: Any) -> dict:
    """Returns variables with no structure in their values, and no zeros or ones."""
    wanted = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    statistics = {'mean': 'running_mean', 'var': 'running_var'}  # what the rule of the goldens knows them as
    return {kind: _filled(tree, statistics if kind == 'batch_stats' else {}) for kind, tree in wanted.items()}


def _filled(tree: dict, names: dict[str, str]) -> dict:
    flat = traverse_util.flatten_dict(tree, sep='.')

    def fill(path: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        *above, last = path.split('.')
        return jnp.asarray(goldens.fill('.'.join([*above, names.get(last, last)]), leaf.shape))

    return traverse_util.unflatten_dict({path: fill(path, leaf) for path, leaf in flat.items()}, sep='.')


class Shapes(NamedTuple):
    """Features and variables of a network, shapes and types only."""

    features: dict
    variables: dict

    @property
    def params(self) -> dict:
        return self.variables['params']


@functools.cache
def shapes(name: str) -> Shapes:
    """Returns the shapes of a published network as it was published, whole and for two inputs of its paper's size.

    It is traced once, for all tests of the network. The tests' own networks get images that are not square.
    """
    model, x = sized(name)
    return Shapes(*jax.eval_shape(model.init_with_output, jax.random.key(0), x))


def sized(name: str) -> tuple[Classifier, jax.ShapeDtypeStruct]:
    """Returns a network with its paper's number of classes, and two inputs of its paper's size."""
    family, backbone = modelzoo.find(name)
    if name in family.PUBLISHED:
        size = family.PUBLISHED[name].image_size
    elif isinstance(backbone, SequenceBackbone):
        size = (1, 64)
    else:
        size = (64, 96) if name.endswith('_test') else (224, 224)
    model = modelzoo.create_model(name, 10 if size == (32, 32) else None)  # CIFAR-10 has that size
    return model, listing.example(model.backbone, size, batch=2)


def primitives(jaxpr: core.Jaxpr | core.ClosedJaxpr) -> collections.Counter[core.Primitive]:
    """Returns how often each operation stands in a program, the bodies of calls and loops included."""
    found = collections.Counter()
    for equation in counting.bare(jaxpr).eqns:
        found[equation.primitive] += 1
        for inner in counting.inner(equation.params):
            found += primitives(inner)
    return found


# Deep and wide variants, and second tests' own networks of a family: what they would cost the default suite is spent on
# others of their families.
DEEP = (
    'convnext_dcls_[sb]*',
    'preact_resnet1*4_cifar',
    'preact_resnet1001_cifar',
    'resnetv2_200',
    'prelu_net_[bc]',
    'resnet50_hybrid',
    'vit_[sb]_max',
    'resnetv2_1*d',
    'resnet[12]*d',
    'ecaresnet[12]*',
    'eca_nfnet_l[123]',
    'pyramidnet1[016]*',
    'pyramidnet2*',
    'resnetrs[1-4]*',
    'dpn[0-9]*',
    'duoformer_*r50_*',
    'sparsenet100_*',
    'sparsenet_bc*',
    'repmlpnet_[bdl][0-9]*',
    'repmlpnet_t256*',
    'tvconv_mobilenet_v2_*',
    'wavemix_256_*',
    'wavemix_320_*',
    'wavemix_192_*',
    'spartan_t',
    'spartan_test',
    'residual_attention_[0-9]*',
    'residual_attention_deep_test',
    'efficientnet_b[1-7]',
    'regnetx_*',
    'regnety_00[268]',
    'regnety_0[1-9]*',
    'regnety_[1-3]*',
    'inception_resnet_v*',
    'inception_resnet_stem_test',
    'inception_v4',
    'lsnet_[tsb]',
    'lsnet_[tsb]_distill',
    'lsnet_large_test',
    'svt_[bl]',
    'glnet_[19]*',
    'glnet_4g*',
    'glnet_stl',
    'glnet_plain_test',
    'stvit_[bl]*',
    'tic_tiny',
    'transnext_[tsb][mia]*',
    'sret_t_*',
    'sret_lt*',
    'sret_s*',
    'transnext_micro_*',
    'shvit_s[2-4]*',
    'shvit_s1_deploy',
    'shvit_deploy_test',
    'iformer_[bl]*',
    'iformer_small_384',
    't2t_vit_1*',
    't2t_vit_2*',
    't2t_vit_t_*',
    'crossvit_[bst1]*_*',
    'coatnet_*_224',
    'maxvit_*_[235]*',
    'pyramidnet_cifar_test',
    'sparsenet_dense_test',
    'fractalnet_stem_test',
    'ese_vovnet_test',
    'convfirst_mbconv_*',
    'vit_base_patch16_clip_*',
    'vit_large_patch14_clip_*',
    'hiera_[sbl]*',
    'pit_[xsb]*_*',
    'pit_ti_224',
    'hiera_huge_*',
    'deit_[sb]*_distilled_*',
)


# Networks whose programs take long to compile: what compiles them is heavy, shapes and names are not.
DEAR = (
    'convnext_dcls_test',
    'ci2p_vit_test',
    'convfirst_test',
    'crossvit_test',
    'dit_routing_test',
    'duoformer_test',
    'efficientnet_test',
    'ese_vovnet*_test',
    'glnet_test',
    'iformer_test',
    'inception_resnet_test',
    'lsnet_test',
    'maxvit_test',
    'poincare_resnet_test',
    'repmlpnet_test',
    'residual_attention_test',
    'resnet_hybrid_test',
    's2a_test',
    'shvit_test',
    'sparsenet_test',
    'sret_test',
    'stvit_test',
    'svt_test',
    't2t_vit*_test',
    'tic_test',
    'transnext_test',
    'vit_max_test',
    'tvconv_mobilenet_test',
    'vovnet_test',
    'wavemix_test',
)


def deep_ones_heavy(names: Sequence[str], also: Sequence[str] = ()) -> list[Any]:
    """Returns names to parametrize tests by, those of `DEEP` and of other patterns marked heavy."""
    deep = lambda name: any(fnmatch.fnmatch(name, pattern) for pattern in (*DEEP, *also))
    return [pytest.param(name, marks=pytest.mark.heavy) if deep(name) else name for name in names]


def images(pattern: str = '*') -> list[str]:
    """Returns the names of the networks that read images and nothing else."""
    found = {name: modelzoo.find(name)[1] for name in modelzoo.list_models(pattern)}
    alone = lambda backbone: read_by(backbone) == (IMAGE,) and not isinstance(backbone, SequenceBackbone)
    return [name for name, backbone in found.items() if alone(backbone)]
