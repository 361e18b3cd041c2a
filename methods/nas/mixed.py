"""Search for the operation of each block: trained, or drawn and compared; then the network of the operations found.

Liu et al., 2019, "DARTS: Differentiable Architecture Search", https://arxiv.org/abs/1806.09055: every block averages
all operations with the softmax of numbers ``alpha`` (modelzoo/layers/convolutions/mixed.py). `Search` trains the
weights on one half of the examples and ``alpha`` on the other; `Picked` takes the operation of the largest ``alpha`` of
each block. Guo et al., 2020, https://arxiv.org/abs/1904.00420: training draws one operation a block in each step
(``random`` of the mixtures, trained as any network is), and `Drawn` compares networks drawn at random by their accuracy
on examples that were held out, with the weights that all share. Both leave the network anew, with random weights, for a
later stage to train from the beginning.

The search of Han et al., 2022, https://arxiv.org/abs/2202.02777, which finds that blocks of stride 1 take operations
without parameters and blocks of stride 2 do not, is not published; which searcher it was is not known here.

Where we differ from DARTS: weights and ``alpha`` move in the same step, each by the gradient where the step begins
(there ``alpha`` moves first), without the second-order term; both by the run's optimizer, whose `rate_rules` can give
``alpha`` a rate of its own. Where we differ from Guo et al.: networks are drawn at random, not evolved, and their batch
statistics are those of the search.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int, Key

from longview.methods import forward
from longview.methods.computation import Made, Opened, Work
from longview.methods.objective import NETWORK
from longview.methods.reparam import on_selected, select
from longview.methods.task import Batch, Given, Metrics, Network, Variables, Wrapper
from longview.modelzoo.features import HalvingBackbone
from longview.modelzoo.layers.convolutions.mixed import Mixed
from longview.trees import by_path

_ALPHA = r'(?:.*/)?spatial/alpha'


@dataclasses.dataclass(frozen=True)
class Search(Wrapper):
    """Task -> Task: weights learn from the first half of each batch, and ``alpha`` of every mixture from the second.

    Batches have one half of the training examples in front and the other behind, as `data.mixture:Mixture` makes them
    of two `data.subset:Subset`s. Batch statistics are those of the first half. Beside the inner task's metrics there
    are ``held_loss`` and ``certainty``, the mean over the mixtures of their largest weight.

    Attributes:
        inner: the task, whose network has mixtures.
    """

    def init(self, rng: Key[Array, ''], batch: Batch, given: Given | None = None) -> Variables:
        if 'source' not in batch:
            raise ValueError(
                f'Search wants batches of two halves, and these have {", ".join(sorted(batch))} without source: make '
                'them by data.mixture:Mixture, of two parts with half of the batch each.'
            )
        v = self.inner.init(rng, batch, given)
        select(v.params, _ALPHA, 'Search')
        return v

    def loss(
        self, v: Variables, batch: Batch, rng: Key[Array, ''], step: Int[Array, '']
    ) -> tuple[Float[Array, ''], tuple[Any, Metrics]]:
        count = len(batch['source'])
        if count % 2:
            raise ValueError(f'Search halves its batches, and {count} examples are odd: change config.batch_size.')
        first, second = (
            {k: x[half] for k, x in batch.items()} for half in (slice(count // 2), slice(count // 2, None))
        )
        paths = select(v.params, _ALPHA, 'Search')
        rest = [path for path in by_path(v.params) if path not in paths]
        loss, (state, metrics) = self.inner.loss(_without_gradient(v, paths), first, rng, step)
        held_loss, _ = self.inner.loss(_without_gradient(v, rest), second, rng, step)
        certainty = jnp.mean(jnp.stack([jax.nn.softmax(by_path(v.params)[path]).max() for path in paths]))
        return loss + held_loss, (state, {**metrics, 'held_loss': held_loss, 'certainty': certainty})


def _without_gradient(v: Variables, paths: Sequence[str]) -> Variables:
    return v._replace(params=on_selected(lambda _, leaf: jax.lax.stop_gradient(leaf), paths, v.params))


@dataclasses.dataclass(frozen=True)
class Picked:
    """A computation: the network of the operations with the largest ``alpha``, with random weights, and ``ops.json``.

    The file has under ``ops`` the operation of each block, under ``weights`` those of all operations, and under
    ``parameter_free`` the share of the blocks with an operation without parameters, of those that keep the resolution
    (``stride 1``) and of those that halve it (``stride 2``).

    Attributes:
        run: workdir of the search, such as ``{'stage': 'search'}`` in a config; a `ResNet` of bottlenecks whose
            `spatial` is a `Mixed`.
        network: which network of the run.
        seed: of the random weights.
    """

    run: str
    network: str = NETWORK
    seed: int = 0

    def __call__(self, work: Work) -> Made:
        """Returns the file and the network.

        Raises:
            ValueError: the run's network has no mixtures.
        """
        opened = work.open(self.run)
        network = opened.networks[self.network]
        ops_of(network.module.backbone)  # says what is wrong with it
        params = by_path(network.variables['params'])
        weights = np.stack([jax.nn.softmax(params[path]) for path in _alphas(network)])
        module, said = _found(network, weights.argmax(axis=1))
        files = {'ops.json': {**said, 'weights': weights.round(4).tolist()}}
        return Made(files, {self.network: _started(module, opened, self.seed)})


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A computation: the best of some networks drawn at random, with random weights, and ``ops.json``.

    The file is that of `Picked`, with the accuracies of all networks under ``accuracies`` in place of weights.

    Attributes:
        run, network: as in `Picked`.
        seed: of the random weights, and of what is drawn.
        data: a data set whose evaluation split has the examples to compare by; None for the run's own.
        held: the numbers of these examples, which the run was not trained on; None for all of the split.
        candidates: number of networks.
    """

    run: str
    network: str = NETWORK
    seed: int = 0
    data: Any = None
    held: Sequence[int] | None = None
    candidates: int = 50

    def __call__(self, work: Work) -> Made:
        """Returns the file and the network.

        Raises:
            ValueError: the run's network has no mixtures.
        """
        opened = work.open(self.run)
        network = opened.networks[self.network]
        count = len(ops_of(network.module.backbone))
        size = (self.candidates, len(places(network)))
        drawn = np.random.default_rng(self.seed).integers(0, count, size)
        program = lambda task, v, batch: {'right': right_by(task.deployed(v)[self.network], batch, drawn)}
        right = opened.gather(program, self.data)['right']
        accuracies = (right if self.held is None else right[np.asarray(self.held)]).mean(axis=0)
        module, said = _found(network, drawn[accuracies.argmax()])
        files = {'ops.json': {**said, 'accuracies': [round(float(one), 4) for one in accuracies]}}
        return Made(files, {self.network: _started(module, opened, self.seed)})


def _found(network: Network, picks: Int[np.ndarray, ' m']) -> tuple[nn.Module, dict[str, Any]]:
    """Returns the network with these operations, one a block, and what there is to say of them."""
    backbone = network.module.backbone
    ops, halves = ops_of(backbone), _halves(backbone)
    free = parameter_free(network.variables['params'], len(ops))[picks]
    share = lambda which: float(free[which].mean()) if which.any() else None
    named = dict(zip(places(network), (_name(ops[pick]) for pick in picks), strict=True))
    said = {'ops': named, 'parameter_free': {'stride 1': share(~halves), 'stride 2': share(halves)}}
    return network.module.clone(backbone=with_ops(backbone, picks.tolist())), said


def _started(module: nn.Module, opened: Opened, seed: int) -> Network:
    """Returns a network with random weights, for images like those of the run."""
    x = jnp.zeros(opened.data.batch_spec(1, train=False)['image'].shape)
    return Network(module, jax.jit(functools.partial(module.init, train=False))(jax.random.key(seed), x))


def right_by(network: Network, batch: Batch, drawn: Int[np.ndarray, 'n m']) -> Float[Array, 'b n']:
    """Returns which examples are classified rightly by the networks of the drawn operations, one a mixture."""
    paths, params = _alphas(network), network.variables['params']

    def right(picks: Int[Array, ' m']) -> Float[Array, ' b']:
        # A softmax of these is exactly 0 and 1.
        alpha = lambda path, leaf: 1e4 * jax.nn.one_hot(picks[paths.index(path)], leaf.size)
        variables = {**network.variables, 'params': on_selected(alpha, paths, params)}
        logits = network.module.apply(variables, *forward.inputs(network.module, batch), train=False)['logits']
        return (jnp.argmax(logits, axis=1) == batch['label']).astype(jnp.float32)

    return jax.lax.map(right, jnp.asarray(drawn)).T


def ops_of(backbone: nn.Module) -> Sequence[Any]:
    """Returns the factories that the mixtures of a backbone choose from.

    Raises:
        ValueError: it has no mixtures, or no stages that halve the resolution.
    """
    spatial = getattr(getattr(backbone, 'block', None), 'keywords', {}).get('spatial')
    if not isinstance(backbone, HalvingBackbone) or getattr(spatial, 'func', None) is not Mixed:
        raise ValueError(
            f'{type(backbone).__name__} has no block whose spatial operation is a Mixed: search in a ResNet of '
            'bottlenecks with modelzoo.layers.convolutions.mixed:Mixed.'
        )
    return spatial.keywords['ops']


def with_ops(backbone: nn.Module, picks: Sequence[int]) -> nn.Module:
    """Returns a backbone with one operation in each block in the place of its mixtures."""
    ops = ops_of(backbone)
    return backbone.clone(block=[functools.partial(backbone.block, spatial=ops[pick]) for pick in picks])


def places(network: Network) -> list[str]:
    """Returns the blocks with mixtures, from the first to the last, such as ``stage0/block00``."""
    return [path.removeprefix('backbone/').rpartition('/spatial/')[0] for path in _alphas(network)]


def parameter_free(params: Any, count: int) -> np.ndarray:
    """Returns for each of so many operations of the mixtures whether it has no parameters."""
    parents = {part for path in by_path(params) for part in path.split('/')}
    return np.array([f'op{index}' not in parents for index in range(count)])


def _alphas(network: Network) -> list[str]:
    return sorted(select(network.variables['params'], _ALPHA, 'The search'))


def _halves(backbone: HalvingBackbone) -> np.ndarray:
    """Returns which blocks halve the resolution: the first one of each stage but the first."""
    return np.array([stage > 0 and block == 0 for stage, depth in enumerate(backbone.depths) for block in range(depth)])


def _name(op: Any) -> str:
    return getattr(op, 'func', op).__name__
