"""What objectives share: the network that one trains, where its first weights are from, and how deep a weight lies."""

import abc
import dataclasses
from typing import Any

import jax
from flax import linen as nn

from longview.methods.task import Batch, Given, Network, Shapes, Task, Variables
from longview.modelzoo.features import Backbone
from longview.modelzoo.heads import Classifier, Loaded, bare, network_of

# The name of the only network that an objective deploys.
NETWORK = 'network'

_PARTS = ('backbone', 'head')


class Objective(Task):
    """A task that trains one module, which has a child ``backbone`` and may have a child ``head``."""

    @property
    @abc.abstractmethod
    def source(self) -> Classifier:
        """The network as it was given: its backbone, and what its first weights are loaded from if they are."""

    @property
    @abc.abstractmethod
    def model(self) -> nn.Module:
        """The module that is trained, wherever its first weights are from."""

    def given(self, batch: Shapes, *, fixed_only: bool = False) -> Given:
        if fixed_only or not isinstance(self.source, Loaded):
            return Given()
        like = first_shapes(self, batch)[NETWORK]
        like = {kind: {part: tree[part] for part in _PARTS if part in tree} for kind, tree in like.items()}
        return Given(networks={NETWORK: self.source.load(like)})

    def deployed(self, v: Variables) -> dict[str, Network]:
        return {NETWORK: Network(self.model, {'params': v.params, **v.state})}

    def depth_of(self, path: str) -> tuple[int, int]:
        backbone = self.source.backbone
        if not isinstance(backbone, Backbone):
            raise ValueError(
                f'{type(backbone).__name__} does not say the depth of its layers, for it is no '
                'modelzoo.features.Backbone: set layer_decay to 1, or make it one.'
            )
        return backbone.layer_of(path), backbone.num_layers

    def _weights(self, batch: Batch, given: Given | None) -> dict[str, Any]:
        """Returns first weights of the network, read here where nobody has read them yet."""
        return (self.given(batch) if given is None else given).networks.get(NETWORK, {})


@dataclasses.dataclass(frozen=True)
class NetworkObjective(Objective):
    """An objective that trains a backbone with a head.

    Attributes:
        backbone, head: short for ``network=Classifier(backbone, head)``. Of a whole network in the place of the
            backbone, one that is loaded from a file for instance, the backbone is taken, with its weights.
        network: a backbone and its head as one `Classifier`, in place of the two.
    """

    backbone: nn.Module | None = None
    head: nn.Module | None = None
    network: nn.Module | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        who, parts = type(self).__name__, (self.backbone, self.head)
        if self.network is None and self.backbone is None:
            raise ValueError(f'{who} has no network: give `network`, or `backbone` and `head`.')
        if self.network is not None and parts != (None, None):
            raise ValueError(f'{who} has a network, and a backbone or a head beside it: give the one or the others.')
        if not isinstance(self.network, Classifier | None):
            raise TypeError(
                f'{who}.network is a {type(self.network).__name__}, and a backbone with a head is wanted: give a '
                'Classifier, as modelzoo.create_model returns it, or `backbone` and `head`.'
            )
        if self.head is None and not isinstance(self.network or self.backbone, Classifier):
            raise ValueError(f'{who} has a backbone without a head: give `head` too, such as modelzoo.heads.Linear.')

    @property
    def source(self) -> Classifier:
        if self.network is None and self.head is not None:
            return network_of(self.backbone, self.head)
        return self.network or self.backbone

    @property
    def model(self) -> Classifier:
        return bare(self.source)


def first_shapes(task: Task, batch: Shapes) -> dict[str, Any]:
    """Returns the shapes of the variables of `task.deployed` at the start, by network, for batches of these shapes."""
    init = lambda batch: variables_of(task.deployed(task.init(jax.random.key(0), batch, Given())))
    return jax.eval_shape(init, dict(batch))


def variables_of(networks: dict[str, Network]) -> dict[str, dict[str, Any]]:
    """Returns the arrays of networks without their modules."""
    return {name: network.variables for name, network in networks.items()}
