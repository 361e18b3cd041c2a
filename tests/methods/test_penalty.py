"""What a part of a network asks for, ``penalty`` among its features, is in the loss of every objective."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from longview.methods.contrast.clip import Clip
from longview.methods.distill.logits import Distill
from longview.methods.ema import Ema
from longview.methods.evaluate.linear_probe import LinearProbe
from longview.methods.exits.confidence import Branch, EarlyExit
from longview.methods.exits.skip import Skip
from longview.methods.language import LanguageModel
from longview.methods.ssl.masked import Autoencoder, MaskedAutoencoder
from longview.methods.ssl.parts import Projector
from longview.methods.ssl.rotation import RotNet
from longview.methods.ssl.simclr import SimClr
from longview.methods.ssl.swav import SwAV
from longview.methods.supervised import Supervised
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier, LanguageHead, Linear
from longview.trees import by_path
from tests.methods.small import RNG, SEEN, trained
from tests.modelzoo import tiny

WIDTH = 4


def asked(asks: bool, rows: int, matrix: jax.Array) -> dict[str, jax.Array]:
    """Returns half the squared length of a matrix for each row, whose gradient is the matrix; or nothing."""
    return {ft.PENALTY: jnp.full(rows, 0.5 * jnp.sum(matrix**2))} if asks else {}


class Toy(ft.TokenBackbone, ft.PyramidBackbone):
    """A matrix on each pixel; with everything among its features that an objective for images reads.

    Attributes:
        asks: whether its features hold a penalty.
    """

    strides, channels, layers = (1,), (WIDTH,), (('matrix',), ('nothing',))
    asks: bool = True

    def setup(self) -> None:
        self.matrix = self.param('matrix', jax.nn.initializers.normal(0.5), (1, WIDTH))

    def __call__(self, x, *, train=False):
        grid = self.grid(*x.shape[1:3])
        features = self.encode(self.embed(x), grid, train=train)
        image = features[ft.TOKENS].reshape(len(x), *grid, WIDTH)
        gates = jax.nn.sigmoid(features[ft.POOLED][:, :2])
        return {**features, ft.MAP: image, ft.stage(0): image, ft.GATES: gates, ft.GATE_LOGITS: gates}

    def grid(self, height, width):
        return height, width

    def embed(self, x):
        return x.reshape(len(x), -1, 1) @ self.matrix

    def positions(self, grid):
        return jnp.zeros((1, grid[0] * grid[1], WIDTH))

    def encode(self, tokens, grid, *, train=False):
        tokens = jnp.tanh(tokens)
        return {ft.TOKENS: tokens, ft.POOLED: tokens.mean(axis=1), **asked(self.asks, len(tokens), self.matrix)}


class Embedded(nn.Module):
    """A table of words."""

    asks: bool

    @nn.compact
    def __call__(self, words):
        matrix = self.param('matrix', jax.nn.initializers.normal(0.5), (10, WIDTH))
        tokens = jnp.tanh(matrix[words])
        return {ft.TOKENS: tokens, ft.POOLED: tokens.mean(axis=1), **asked(self.asks, len(words), matrix)}


class Text(ft.TextBackbone):
    """Words by themselves."""

    layers = (('words',),)
    asks: bool = True

    @nn.compact
    def __call__(self, words, valid, *, train=False):
        return Embedded(self.asks, name='words')(words)


class Sequence(ft.SequenceBackbone):
    """Likewise, one at a time."""

    layers = (('words',),)
    vocabulary = 10
    asks: bool = True

    @nn.compact
    def __call__(self, words, *, train=False):
        return Embedded(self.asks, name='words')(words)

    def init_state(self, batch):
        return ()

    def step(self, state, x):
        return state, self(x[:, None])


def classifier(asks: bool) -> Classifier:
    return Classifier(Toy(asks), Linear(10))


OBJECTIVES = {
    'supervised': lambda asks: Supervised(network=classifier(asks)),
    'distill': lambda asks: Distill(classifier(asks), [classifier(True)], label_weight=0.5),
    'simclr': lambda asks: SimClr(Toy(asks), Projector((4,))),
    'swav': lambda asks: SwAV(Toy(asks), Projector((4,)), prototypes=5),
    'rotnet': lambda asks: RotNet(Toy(asks), Linear(4)),
    'mae': lambda asks: MaskedAutoencoder(Autoencoder(Toy(asks), 8, 1, 1), normalize_patches=False),
    'early_exit': lambda asks: EarlyExit(Toy(asks), Linear(10), functools.partial(Branch, 10), ('stage0',), (0.5, 1.0)),
    'skip': lambda asks: Skip(Toy(asks), Linear(10), alpha=0.1),
    'language': lambda asks: LanguageModel(Sequence(asks), LanguageHead(10)),
    'clip': lambda asks: Clip(Toy(asks), Text(asks), width=4),
}
WORDS = {'words': np.arange(16 * 3, dtype=np.int32).reshape(16, 3) % 10, 'words_valid': np.ones((16, 3), bool)}


@pytest.mark.parametrize('name', OBJECTIVES)
def test_every_objective_adds_the_mean_of_what_is_asked_and_nothing_where_nothing_is(name):
    asking, plain = (OBJECTIVES[name](asks) for asks in (True, False))
    # What a language model is to say are words.
    batch = jax.tree.map(jnp.asarray, SEEN | WORDS | ({'label': WORDS['words']} if name == 'language' else {}))

    @tiny.jit
    def run():
        v = asking.init(RNG, batch)
        of = lambda task: jax.value_and_grad(
            lambda params: task.loss(v._replace(params=params), batch, RNG, jnp.int32(0)), has_aux=True
        )(v.params)
        return v.params, of(asking), of(plain)

    params, ((loss, (_, metrics)), gradient), ((own, (_, quiet)), before) = jax.device_get(run())
    params, gradient, before = map(by_path, (params, gradient, before))
    matrices = {path: matrix for path, matrix in params.items() if path.endswith('matrix')}
    # Of two networks the mean of what they ask.
    penalty = np.mean([0.5 * np.sum(matrix**2) for matrix in matrices.values()])
    assert penalty > 0.1
    np.testing.assert_allclose(
        [metrics['penalty'], metrics['loss'], loss], [penalty, own + penalty, own + penalty], rtol=1e-4
    )
    assert 'penalty' not in quiet and quiet['loss'] == own
    for path in params:
        added = params[path] / len(matrices) if path in matrices else 0.0
        np.testing.assert_allclose(gradient[path], before[path] + added, rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.parametrize('accumulate', [1, 4])
def test_what_is_asked_comes_through_wrappers_and_microbatches(accumulate):
    task = Ema(LinearProbe(OBJECTIVES['rotnet'](True), Linear(10), normalize=False), 0.9)
    first, last = jax.device_get(trained(task, 1, accumulate))
    (matrix,) = (x for path, x in by_path(first.variables.params).items() if path.endswith('matrix'))
    meters = last.meters
    np.testing.assert_allclose(meters['penalty'], 0.5 * np.sum(matrix**2), rtol=1e-4)
    np.testing.assert_allclose(meters['loss'], meters['inner_loss'] + meters['probe_loss'], rtol=1e-5)
    assert meters['inner_loss'] > meters['penalty'] > 0.1
