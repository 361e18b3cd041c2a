"""What the tests of methods share: tiny backbones of each kind, one batch, and every method."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from longview.methods.conditioning import Conditioned
from longview.methods.distill.logits import Distill
from longview.methods.ema import Ema
from longview.methods.evaluate.few_shot import FewShot
from longview.methods.evaluate.knn import NearestNeighbours
from longview.methods.evaluate.linear_probe import LinearProbe
from longview.methods.exits.confidence import Branch, EarlyExit
from longview.methods.freeze import Freeze
from longview.methods.optim.loss_scale import LossScale
from longview.methods.optim.sam import Sam
from longview.methods.optim.tract import TrAct
from longview.methods.peft.low_rank import LowRank, pissa
from longview.methods.prune.magnitude import Prune
from longview.methods.prune.trained_rank import TrainedRank
from longview.methods.quant.fake import FakeQuant
from longview.methods.robust.gloro import Gloro
from longview.methods.ssl.masked import Autoencoder, MaskedAutoencoder
from longview.methods.ssl.parts import Projector
from longview.methods.ssl.rotation import RotNet
from longview.methods.ssl.simclr import SimClr
from longview.methods.ssl.swav import SwAV
from longview.methods.ssl.views import Crop, Jitter, Views
from longview.methods.supervised import Supervised
from longview.methods.task import init_state, make_step
from longview.methods.zero_mean import ZeroMean
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier, Linear
from longview.modelzoo.heads.unit import UnitLinear
from longview.modelzoo.layers.convolutions.conv import Conv
from longview.modelzoo.layers.frame.dense import Dense
from longview.modelzoo.layers.frame.drop import drop_path, path_masks
from longview.modelzoo.layers.norms.batchnorm import BatchNorm
from longview.modelzoo.vision.vit import ViT
from longview.runtime.mesh import MeshConfig, batch_sharding, make_mesh, replicated, tree_shardings
from tests.modelzoo import tiny

RNG = jax.random.key(0)


class Pyramid(ft.PyramidBackbone):
    """One convolution and batch statistics; with `remat`, the latter are computed again in the backward pass."""

    strides, channels, layers = (2,), (8,), (('stem',), ('norm',))
    remat: bool = False

    @nn.compact
    def __call__(self, x, *, train=False):
        normed = lambda norm, x: nn.relu(norm(x, train=train))
        normed = nn.remat(normed) if self.remat else normed
        x = normed(BatchNorm(name='norm'), Conv(8, 2, 2, 0, use_bias=False, name='stem')(x))
        return {'stage0': x, 'map': x, 'pooled': x.mean(axis=(1, 2))}


class Dropping(ft.Backbone):
    """One hidden layer with rows that are dropped at random, keyed by their numbers."""

    layers = (('hidden',),)

    @nn.compact
    def __call__(self, x, *, train=False):
        mask = path_masks(self, 0.5, 2, len(x), branches=1, train=train)
        x = jnp.tanh(Dense(8, name='hidden')(x.reshape(len(x), -1)))
        return {'pooled': drop_path(x, None if mask is None else mask[1, 0])}


BACKBONES = {'tokens': ViT(8, 1, 1, patch=2, image_size=8, drop_path=0.3, prefix=(), pool='mean'), 'pyramid': Pyramid()}
NET = BACKBONES['pyramid']
TWO_VIEWS = Views([[Crop((8, 8), (0.5, 1.0)), Jitter(0.4)]] * 2)


def transform(batch, rng):
    batch = TWO_VIEWS(batch, rng)
    return {k: x / 255.0 if x.ndim == 4 else x for k, x in batch.items()}


@functools.cache
def batch_of(size: int = 16) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {
        'image': jnp.asarray(rng.integers(0, 256, (size, 8, 8, 1), dtype=np.uint8)),
        'label': jnp.asarray(rng.integers(0, 10, size, dtype=np.int32)),
        'epoch': jnp.zeros(size, jnp.int32),
        'index': jnp.arange(size, dtype=jnp.int32),
    }


SEEN = transform(batch_of(), RNG) | {'row': jnp.arange(16)}


def supervised(backbone):
    return Supervised(backbone, Linear(10))


def classifier(backbone):
    return Classifier(backbone, Linear(10))


METHODS = {
    'prune': lambda b: Prune(supervised(b), every=2, rounds=1, amount=0.5),
    'prune_global': lambda b: Prune(
        supervised(b), every=2, rounds=1, amount=0.5, scope='global', rewind_to=1, control=True
    ),
    'trained_rank': lambda b: TrainedRank(supervised(b), every=1, energy=0.8),
    'lora': lambda b: LowRank(supervised(b), rank=1, alpha=2.0),
    'pissa': lambda b: LowRank(supervised(b), rank=1, start=pissa),
    'quant': lambda b: FakeQuant(supervised(b), bits=4),
    'weight_norm': lambda b: Conditioned(supervised(b), gain=True),
    'distill': lambda b: Distill(
        classifier(b), [classifier(b), classifier(Pyramid())], label_weight=0.5, discriminator_weight=0.1
    ),
    'simclr': lambda b: SimClr(b, Projector((8, 4))),
    'rotnet': lambda b: RotNet(b, Linear(4)),
    'swav': lambda b: SwAV(b, Projector((8, 4)), prototypes=5, queue=24, freeze=1),
    'mae': lambda b: MaskedAutoencoder(Autoencoder(b, 8, 1, 1)),
    'sam': lambda b: Sam(supervised(b)),
    'tract': lambda b: TrAct(supervised(b)),
    'probe': lambda b: LinearProbe(RotNet(b, Linear(4)), Linear(10)),
    'knn': lambda b: NearestNeighbours(supervised(b), num_classes=10, bank=24, neighbours=3),
    'few_shot': lambda b: FewShot(supervised(b), num_classes=10, bank=24, shots=(1, 2)),
    'early_exit': lambda b: EarlyExit(b, Linear(10), functools.partial(Branch, 10), ('stage0',), (0.5, 1.0)),
    'gloro': lambda b: Gloro(b, UnitLinear(10)),
    'ema': lambda b: Ema(supervised(b), 0.9),
    'loss_scale': lambda b: LossScale(supervised(b)),
    'freeze': lambda b: Freeze(supervised(b), 'backbone/norm/.*'),
    'zero_mean': lambda b: ZeroMean(supervised(b)),
}


def begun(task, batch=SEEN):
    """Returns a task's first variables."""
    return tiny.jit(task.init)(RNG, batch)


def trained(task, steps, accumulate=1, mesh=None):
    """Returns the state at the start and after each of some steps."""
    tx, batch = optax.sgd(0.05), batch_of()
    init = lambda: init_state(task, tx, RNG, batch, transform)
    step = make_step(task, tx, transform=transform, accumulate=accumulate)
    places = {'init': {}, 'step': {}} if mesh is None else placed(init, mesh)
    states = [tiny.jit(init, **places['init'])()]
    step = tiny.jit(step, **places['step'])
    for _ in range(steps):
        state, bad = step(states[-1], batch, RNG)
        states.append(state)
        assert int(bad) == -1
    return states


def placed(init, mesh):
    config = MeshConfig(*mesh, fsdp_min_size=1)
    made = make_mesh(config, jax.devices()[: math.prod(mesh)])
    shardings = tree_shardings(jax.eval_shape(init), made, config)
    inputs = (shardings, batch_sharding(made), replicated(made))
    return {
        'init': {'out_shardings': shardings},
        'step': {'in_shardings': inputs, 'out_shardings': (shardings, replicated(made))},
    }
