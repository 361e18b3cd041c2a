"""Networks of LayerNorm made into equal ones of RMSNorm and CRMSNorm, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.heads import Classifier, LanguageHead, Linear, TwoHeads
from longview.modelzoo.layers.attention.attention import Attention
from longview.modelzoo.layers.attention.posemb import sincos2d
from longview.modelzoo.layers.frame.mlp import Mlp, SwiGLU
from longview.modelzoo.layers.mixers.causal_attention import CausalAttention
from longview.modelzoo.layers.mixers.hybrid_norm import HybridNorm
from longview.modelzoo.layers.mixers.mamba import Mamba
from longview.modelzoo.layers.norms.norm import LayerNorm, NoNorm, RMSNorm
from longview.modelzoo.layers.norms.zero_mean import CRMSNorm
from longview.modelzoo.layers.residuals.rezero import ReZero
from longview.modelzoo.pre_rms import pre_crms, pre_rms
from longview.modelzoo.sequence.trunk import Trunk
from longview.modelzoo.vision.resnet import ResNet
from longview.modelzoo.vision.vit import DistilledViT, ViT
from tests.modelzoo.tiny import filled, jit

_VIT = functools.partial(ViT, 8, 1, 2, patch=4, image_size=8)
_TRUNK = functools.partial(Trunk, 8, 1, mixer=functools.partial(CausalAttention, 2, 8), mlp=Mlp)
IMAGE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 12, 3)), jnp.float32)
WORDS = jnp.asarray([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]])


@pytest.mark.quick
def test_norms_of_zero_mean_vectors_are_layer_norm():
    x = np.random.default_rng(1).normal(size=(4, 9)).astype(np.float32)
    x -= x.mean(axis=1, keepdims=True)
    x = jnp.asarray(x)
    wanted = LayerNorm(affine=False).apply({}, x)
    rms = RMSNorm(1e-5, affine=False).apply({}, x)
    compressed = CRMSNorm().apply({}, x[:, :-1])
    np.testing.assert_allclose(rms, wanted, atol=1e-6)
    np.testing.assert_allclose(compressed, wanted[:, :-1], atol=1e-6)


NETWORKS = {
    'positions': (Classifier(_VIT(), Linear(3)), IMAGE),
    'sines': (Classifier(_VIT(prefix=(), pool='mean', fixed_positions=sincos2d), Linear(3)), IMAGE),
    'two_heads': (Classifier(DistilledViT(8, 1, 2, 4, 8, ('cls_token', 'dist_token')), TwoHeads(3)), IMAGE),
    'words': (Classifier(_TRUNK(vocabulary=9, places=8), Linear(3)), WORDS),
}


@pytest.mark.parametrize(
    'kind', [pytest.param(kind, marks=() if kind in ('sines', 'words') else pytest.mark.heavy) for kind in NETWORKS]
)
def test_converted_networks_have_the_same_logits(kind):
    network, x = NETWORKS[kind]
    variables = filled(network, x)
    made = [(network, variables), pre_rms(network, variables), pre_crms(network, variables)]
    logits = jax.device_get(jit(lambda: [one.apply(v, x)['logits'] for one, v in made])())
    assert np.ptp(logits[0], axis=0).min() > 1e-3
    for found in logits[1:]:
        np.testing.assert_allclose(found, logits[0], atol=1e-5)
    (rms, rms_variables), (crms, crms_variables) = made[1:]
    assert isinstance(rms.backbone.norm(), RMSNorm) and isinstance(crms.backbone.norm(), CRMSNorm)
    assert crms.backbone.width == network.backbone.width - 1
    for one, v in made[1:]:
        assert jax.tree.map(jnp.shape, jax.eval_shape(one.init, jax.random.key(0), x)) == jax.tree.map(jnp.shape, v)


@pytest.mark.heavy
def test_a_language_model_with_gates_is_converted():
    network = Classifier(_TRUNK(mlp=functools.partial(SwiGLU, multiple_of=4), vocabulary=9, places=8), LanguageHead(9))
    variables = filled(network, WORDS)
    made, centered = pre_rms(network, variables)
    answers = lambda: (network.apply(variables, WORDS)['logits'], made.apply(centered, WORDS)['logits'])
    wanted, found = jax.device_get(jit(answers)())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_compressed_network_decodes_as_it_reads():
    network = Classifier(_TRUNK(vocabulary=9, places=8), Linear(3))
    compressed, variables = pre_crms(network, filled(network, WORDS))

    def answers():
        state = compressed.apply(variables, 2, method='init_state')
        state, _ = compressed.apply(variables, state, WORDS[:, :3], method='extend')
        _, features = compressed.apply(variables, state, WORDS[:, 3:], method='extend')
        return compressed.apply(variables, WORDS)['logits'], features['logits']

    wanted, found = jax.device_get(jit(answers)())
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.quick
@pytest.mark.parametrize(
    ('convert', 'backbone', 'said'),
    [
        (pre_rms, ResNet(), 'neither a ViT nor the sequence trunk'),
        (pre_rms, _VIT(norm=NoNorm), 'NoNorm in its blocks where LayerNorm is wanted'),
        (pre_rms, _VIT(residual=ReZero), 'other connections than plain sums'),
        (pre_rms, _VIT(mixer=functools.partial(Attention, out_norm=LayerNorm)), 'changes what its last matrix writes'),
        (pre_rms, _VIT(block=HybridNorm), 'blocks that do not read their stream through norms alone'),
        (pre_rms, _VIT(prefix=('cls_token', 'register')), 'tokens register, which are not known to be centered'),
        (pre_rms, _VIT(first_norm=True), 'first_norm is True: only a network with first_norm=False'),
        (pre_rms, _TRUNK(pre_norm=False), 'pre_norm is False: only a network with pre_norm=True'),
        (pre_rms, _TRUNK(vocabulary=9, tied=True), 'tied is True'),
        (pre_rms, _TRUNK(last_norm=None), 'last norm of Trunk is not that of its blocks'),
        (pre_rms, _TRUNK(mixer=Mamba), 'Mamba in its blocks where Attention or CachedAttention is wanted'),
        (pre_rms, _TRUNK(mixer=(CausalAttention, CausalAttention)), 'blocks with different parts'),
        (pre_crms, _TRUNK(mlp=SwiGLU), 'SwiGLU in its blocks where Mlp is wanted'),
    ],
)
def test_other_networks_are_refused(convert, backbone, said):
    with pytest.raises(ValueError, match=said):
        convert(Classifier(backbone, Linear(3)), {'params': {}})


@pytest.mark.quick
def test_a_bias_that_no_matrix_can_take_up_is_refused():
    network = Classifier(_TRUNK(vocabulary=9, places=8), LanguageHead(9))
    with pytest.raises(ValueError, match='head has no bias to take up that of the norm before it'):
        pre_crms(network, filled(network, WORDS))


@pytest.mark.quick
def test_features_without_a_head_cannot_be_compressed():
    with pytest.raises(ValueError, match='the head is NoneType'):
        pre_crms(Classifier(_VIT(), None), {'params': {}})
