"""Training with RMSNorm and a centered stream is training with LayerNorm."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from longview.methods.supervised import Supervised
from longview.methods.task import Variables
from longview.methods.zero_mean import ZeroMean
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.layers.norms.norm import LayerNorm, RMSNorm
from longview.modelzoo.vision.vit import ViT
from tests.methods.small import RNG, SEEN, begun
from tests.modelzoo import tiny

_VIT = functools.partial(ViT, 8, 1, 2, patch=4, image_size=8, drop_path=0.2)


def test_loss_and_gradients_are_those_of_layer_norm():
    plain = Supervised(_VIT(norm=functools.partial(LayerNorm, epsilon=1e-5)), Linear(10))
    centered = ZeroMean(Supervised(_VIT(norm=functools.partial(RMSNorm, epsilon=1e-5, use_bias=True)), Linear(10)))
    params = tiny.filled(Classifier(plain.backbone, plain.head), SEEN['image'])['params']

    def learn(task, state):
        loss = lambda params: task.loss(Variables(params, state, state), SEEN, RNG, jnp.int32(0))[0]
        return jax.value_and_grad(loss)(params)

    run = tiny.jit(lambda: (learn(plain, {}), learn(centered, {'inner': {}})))
    (loss, wanted), (found_loss, found) = jax.device_get(run())
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(wanted))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * largest), found, wanted)


@pytest.mark.quick
def test_what_is_trained_needs_a_stream():
    with pytest.raises(ValueError, match=r"ZeroMean: 'nothing' matches no parameter"):
        begun(ZeroMean(Supervised(_VIT(), Linear(10)), 'nothing'))
