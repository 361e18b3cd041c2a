"""Early exits: classifiers at intermediate features, of which the first that is confident enough answers.

Teerapittayanon et al., 2016, "BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks",
https://arxiv.org/abs/1709.01686. The loss is a weighted sum of every exit's cross-entropy; an example leaves at the
first exit whose answer has little entropy (`certain`, the paper's rule) or a likely class (`confident`, as in Huang et
al., 2017, https://arxiv.org/abs/1703.09844), and at the last one otherwise.

`score` says what share of the network's arithmetic that leaves undone, though like all programs of one shape it does
all of it: staged.py is the one that stops.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int, Key

from longview.methods import forward
from longview.methods.objective import NetworkObjective
from longview.methods.supervised import cross_entropy
from longview.methods.task import Batch, Given, Metrics, Variables
from longview.modelzoo import features as ft
from longview.modelzoo.heads import Linear
from longview.modelzoo.layers.convolutions.conv_norm import ConvNorm
from longview.modelzoo.layers.frame.pool import global_mean

EXIT_LOGITS = 'exit_logits'


def confident(logits: Float[Array, 'b k'], threshold: float) -> Bool[Array, ' b']:
    """Whether the likeliest class has at least a probability of `threshold`."""
    return jax.nn.softmax(logits.astype(jnp.float32)).max(axis=-1) >= threshold


def certain(logits: Float[Array, 'b k'], threshold: float) -> Bool[Array, ' b']:
    """Whether the entropy of the answer is at most `threshold`, in nats."""
    likely = jax.nn.log_softmax(logits.astype(jnp.float32))
    return -jnp.sum(jnp.exp(likely) * likely, axis=-1) <= threshold


class Branch(nn.Module):
    """A map to logits: 3x3 convolutions with norms and rectifiers, the mean, a matrix.

    Attributes:
        num_classes: number of logits.
        widths: channels of each convolution.
    """

    num_classes: int
    widths: Sequence[int] = ()

    @nn.compact
    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> Float[Array, 'b k']:
        """Returns the logits."""
        for index, width in enumerate(self.widths):
            x = nn.relu(ConvNorm(width, 3, name=f'conv{index}')(x, train=train))
        return Linear(self.num_classes, name='head')({ft.POOLED: global_mean(x)})


class Exits(nn.Module):
    """A backbone, its head, and a branch at each of some of its features.

    Attributes:
        backbone: image -> features.
        head: features -> logits, the last exit.
        branch: factory of an exit: map -> logits.
        exits: names of features.
    """

    backbone: nn.Module
    head: nn.Module
    branch: Callable[..., nn.Module]
    exits: Sequence[str]

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of a batch that the backbone takes."""
        return ft.read_by(self.backbone)

    def setup(self) -> None:
        self.branches = [self.branch() for _ in self.exits]

    def __call__(self, x: Float[Array, 'b h w c'], *, train: bool = False) -> ft.Features:
        """Returns the backbone's features, and ``exit_logits`` (B, exits + 1, classes)."""
        features = self.backbone(x, train=train)
        logits = [self.answer(features, index, train=train) for index in range(len(self.exits) + 1)]
        return {**features, EXIT_LOGITS: jnp.stack(logits, axis=1)}

    def until(self, x: Float[Array, 'b h w c'], index: int) -> tuple[ft.Features, list[Float[Array, 'b k']]]:
        """Returns the features and the logits of the exits up to one."""
        features = self.backbone(x, train=False)
        return features, [self.answer(features, number) for number in range(index + 1)]

    def answer(self, features: ft.Features, index: int, *, train: bool = False) -> Float[Array, 'b k']:
        """Returns the logits of one exit."""
        if index == len(self.exits):
            return self.head(features)
        return self.branches[index](features[self.exits[index]], train=train)


@dataclasses.dataclass(frozen=True)
class EarlyExit(NetworkObjective):
    """Trains all exits together; predicts with the first one that is sure.

    Attributes:
        backbone, head, network: image -> features, among them the maps named in `exits`, and features -> logits, the
            last exit; see `NetworkObjective`.
        branch: factory of an early exit: map -> logits, such as `Branch`.
        exits: names of features, from the input to the output.
        weights: of each exit's loss, the last one's included.
        threshold: when an exit is sure; see `leaves`.
        leaves: (logits, threshold) -> whether each example leaves; `confident` or `certain`.
    """

    branch: Callable[..., nn.Module] | None = None
    exits: Sequence[str] = ()
    weights: Sequence[float] = ()
    threshold: float = 0.9
    leaves: Callable[[Array, float], Array] = confident

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branch is None:
            raise ValueError('EarlyExit has no branch: give a factory of classifiers, methods.exits.confidence.Branch.')
        if not self.exits or len(self.weights) != len(self.exits) + 1:
            raise ValueError(
                f'EarlyExit has {len(self.exits)} early exits and {len(self.weights)} weights: give at '
                'least one exit, and a weight for each and for the last.'
            )
        stages = [name for name in self.exits if name.startswith('stage')]
        if stages:
            ft.require(self.source.backbone, ft.PyramidBackbone, f'EarlyExit at {" and ".join(stages)}')

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        backbone, columns = self.source.backbone, forward.inputs(self.model, batch)
        features = jax.eval_shape(lambda: backbone.init_with_output(rng, *columns, train=False)[0])
        maps = [name for name, value in features.items() if value.ndim == 4]
        absent = [name for name in self.exits if name not in maps]
        if absent:
            raise ValueError(
                f'{type(backbone).__name__} gives no map {" or ".join(absent)} for EarlyExit to '
                f'leave at: use some of {", ".join(maps)}, or another backbone.'
            )
        params, state = forward.init(self.model, rng, *columns, weights=self._weights(batch, given))
        return Variables(params, state, {})

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        del step
        columns = forward.inputs(self.model, batch)
        features, state = forward.learn(self.model, v.params, v.state, *columns, rng=rng, row=batch['row'])
        logits = features[EXIT_LOGITS]
        target = batch.get('target', jax.nn.one_hot(batch['label'], logits.shape[-1]))
        losses = [cross_entropy(logits[:, index], target).mean() for index in range(len(self.weights))]
        loss = sum(weight * each for weight, each in zip(self.weights, losses))
        loss, metrics = forward.penalized(loss, features)
        return loss, (state, {**metrics, **{f'{name}_loss': each for name, each in zip(self._names, losses)}})

    def predict(self, v: Variables, batch: Batch) -> dict[str, Array]:
        """Returns the features, every exit's logits, the number of the `exit` taken and its ``logits``."""
        features = forward.answer(self.model, v.params, v.state, *forward.inputs(self.model, batch))
        logits = features[EXIT_LOGITS]
        sure = [self.leaves(logits[:, index], self.threshold) for index in range(len(self.exits))]
        taken = jnp.argmax(jnp.stack([*sure, jnp.ones(len(logits), bool)], axis=1), axis=1)
        return {**features, 'exit': taken, 'logits': jnp.take_along_axis(logits, taken[:, None, None], axis=1)[:, 0]}

    def score(self, v: Variables, batch: Batch) -> dict[str, Float[Array, ' b']]:
        """Returns loss and accuracy of the answers given, each exit's own accuracy, and the share of work saved."""
        answers, label = self.predict(v, batch), batch['label']
        right = lambda logits: (jnp.argmax(logits, axis=1) == label).astype(jnp.float32)
        logits, apart = answers['logits'], answers[EXIT_LOGITS]
        spent, plain = operations(self, v, *forward.inputs(self.model, batch))
        saved = 1 - jnp.asarray(spent, jnp.float32)[answers['exit']] / plain
        return {
            'loss': cross_entropy(logits, jax.nn.one_hot(label, logits.shape[-1])),
            'accuracy': right(logits),
            'exit': answers['exit'].astype(jnp.float32),
            'saved': saved,
            **{f'{name}_accuracy': right(apart[:, index]) for index, name in enumerate(self._names)},
        }

    @property
    def model(self) -> Exits:
        """The network with its branches."""
        return Exits(self.source.backbone, self.source.head, self.branch, tuple(self.exits))

    @property
    def _names(self) -> tuple[str, ...]:
        return (*self.exits, 'last')


def operations(task: EarlyExit, v: Variables, image: Float[Array, 'b h w c']) -> tuple[list[float], float]:
    """Returns the arithmetic of one example that leaves at each exit, and that of the network without branches.

    As XLA counts the program before it optimizes; what kernels do by hand is not seen.

    Args:
        task: the method.
        v: its variables; only their shapes matter, as the images'.
        image: a batch.
    """
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), ({'params': v.params, **v.state}, image))

    def count(index: int, asked: slice) -> float:
        run = lambda variables, x: task.model.apply(variables, x, index, method='until')[1][asked]
        return jax.jit(run).lower(*shapes).cost_analysis()['flops'] / len(image)

    last = len(task.exits)
    return [count(index, slice(None)) for index in range(last + 1)], count(last, slice(last, None))
