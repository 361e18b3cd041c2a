"""Weights of several runs combined after training: soups and task vectors.

Wortsman et al., 2022, "Model soups", https://arxiv.org/abs/2203.05482: the mean of the weights of networks that were
fine-tuned from the same start, of all of them (`uniform_soup`) or of those that help (`greedy_soup`, recipe 1).
Ilharco et al., 2022, "Editing Models with Task Arithmetic", https://arxiv.org/abs/2212.04089: what fine-tuning changed
is a vector, to be added, scaled or taken away. Zhang et al., 2024, "Knowledge Composition using Task Vectors with
Learned Anisotropic Scaling", https://arxiv.org/abs/2407.02880: every array of every vector has its own coefficient;
learning them is not here.
References: https://github.com/mlfoundations/model-soups, https://github.com/mlfoundations/task_vectors (MIT),
https://github.com/fredzzhang/atlas (MIT).

Functions of parameter trees, which all have the same structure; arrays that hold no weights (batch statistics) are to
be computed anew for the result. `Soup` does it between the stages of a config.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from longview.methods.computation import Made, Work
from longview.methods.reparam import select
from longview.methods.task import Network
from longview.trees import by_path


@dataclasses.dataclass(frozen=True)
class Soup:
    """A computation: a network whose weights are the mean of those of several runs, to be started from.

    Batch statistics are averaged alike; train a few steps more where that matters.

    Attributes:
        runs: their workdirs.
        network: which network of each.
    """

    runs: Sequence[str]
    network: str = 'network'

    def __call__(self, work: Work) -> Made:
        """Returns the network.

        Raises:
            ValueError: the runs have different networks.
        """
        found = [self._of_run(run, work.open(run).networks) for run in self.runs]
        return Made(networks={self.network: Network(found[0].module, uniform_soup([each.variables for each in found]))})

    def _of_run(self, run: str, networks: Mapping[str, Network]) -> Network:
        if self.network not in networks:
            raise ValueError(
                f'Soup.network is {self.network!r}, and {run} has {", ".join(networks)}: name one of these.'
            )
        return networks[self.network]


def uniform_soup(weights: Sequence[Any]) -> Any:
    """Returns the mean of the trees.

    Raises:
        ValueError: there are none, or they are of different networks.
    """
    _alike(weights, 'a soup')
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *weights)


def greedy_soup(
    weights: Sequence[Any], score: Callable[[Any], float], *, strictly: bool = False
) -> tuple[Any, list[int]]:
    """Returns the soup that grows, from the best network on, by each one that does not make it worse.

    Args:
        weights: the trees.
        score: tree -> figure on held-out data, higher is better.
        strictly: as in the published code, not the paper: a network joins only where the soup gets better, and of
            equally good networks the later is tried first.

    Returns:
        The mean of the chosen trees, and their numbers in the order in which they came in.

    Raises:
        ValueError: as `uniform_soup`.
    """
    _alike(weights, 'a soup')
    scores = [score(tree) for tree in weights]
    order = sorted(range(len(weights)), key=lambda i: (-scores[i], -i if strictly else i))
    chosen, best = [order[0]], scores[order[0]]
    for index in order[1:]:
        reached = score(uniform_soup([weights[i] for i in [*chosen, index]]))
        if reached > best or (reached == best and not strictly):
            chosen, best = [*chosen, index], reached
    return uniform_soup([weights[i] for i in chosen]), chosen


def task_vector(start: Any, tuned: Any) -> Any:
    """Returns ``tuned - start``.

    Raises:
        ValueError: they are of different networks.
    """
    _alike([start, tuned], 'a task vector')
    return jax.tree.map(lambda a, b: b - a, start, tuned)


def add_vectors(start: Any, vectors: Sequence[Any], scales: Sequence[Any], pattern: str = '.*') -> Any:
    """Returns ``start + sum_i scale_i * vector_i`` where the pattern matches, and `start` elsewhere.

    Args:
        start: the weights before fine-tuning.
        vectors: from `task_vector`.
        scales: for each vector a number, or one for each of its arrays, by path; negative ones unlearn.
        pattern: regular expression of the paths concerned.

    Raises:
        ValueError: the numbers of vectors and scales differ, the trees differ, or the pattern matches nothing.
    """
    if len(vectors) != len(scales):
        raise ValueError(f'{len(vectors)} task vectors have {len(scales)} scales: give one for each.')
    _alike([start, *vectors], 'a sum of task vectors')
    leaves = by_path(start)
    for path in select(start, pattern, 'add_vectors'):
        for vector, scale in zip(map(by_path, vectors), scales):
            leaves[path] = leaves[path] + (scale[path] if isinstance(scale, dict) else scale) * vector[path]
    return jax.tree.unflatten(jax.tree.structure(start), list(leaves.values()))


def _alike(trees: Sequence[Any], what: str) -> None:
    if not trees:
        raise ValueError(f'{what} needs weights and got none: give at least one tree.')
    shapes = [{path: tuple(leaf.shape) for path, leaf in by_path(tree).items()} for tree in trees]
    for index, other in enumerate(shapes):
        odd = sorted(path for path in shapes[0].keys() | other.keys() if shapes[0].get(path) != other.get(path))
        if odd:
            raise ValueError(
                f'{what} needs weights of one network: {odd[0]} is {shapes[0].get(odd[0], "absent")} in '
                f'the first tree and {other.get(odd[0], "absent")} in number {index}.'
            )
