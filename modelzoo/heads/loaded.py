"""Networks whose first weights are read: from a published file, or from another run.

`Loaded.load` reads them, as host arrays, and whoever makes variables puts them in place of random values with `filled`:
``init`` and ``init_with_output`` of the network itself, and the methods of methods/, which read before their program is
traced, so that weights are arguments of it and not constants in it.
"""

import abc
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from jaxtyping import Array

from longview.modelzoo import features as ft
from longview.modelzoo.heads.classify import Classifier


class Loaded(Classifier, abc.ABC):
    """A classifier whose first weights are read; subclasses have a field `new_head`: whether the head starts anew."""

    def setup(self) -> None:
        if self.is_initializing():
            raise ValueError(
                f'{type(self).__name__} stands inside another module, which would start it from random values: give a '
                'method the whole network, as `network`, or take its `backbone`.'
            )

    @abc.abstractmethod
    def load(self, like: Mapping[str, Any]) -> dict[str, Any]:
        """Reads the weights.

        Args:
            like: variables, or only their shapes: ``backbone`` and, unless it starts anew, ``head`` in each collection.

        Returns:
            The part of this tree that is read, as host arrays.

        Raises:
            ValueError: what is there does not fit.
        """

    @nn.nowrap
    def init(self, rngs: Any, *columns: Array, train: bool = False) -> dict[str, Any]:
        """Returns the variables that are read; `rngs` are for a new head only."""
        init = functools.partial(bare(self).init, train=train)
        like = jax.eval_shape(init, rngs, *columns)
        read = self.load(like)
        whole = jax.tree.structure(read) == jax.tree.structure(like)
        return filled(like if whole else init(rngs, *columns), read)

    @nn.nowrap
    def init_with_output(self, rngs: Any, *columns: Array, train: bool = False) -> tuple[ft.Features, dict[str, Any]]:
        """Returns the features and logits of the variables that are read, and the variables."""
        variables = self.init(rngs, *columns, train=train)
        return bare(self).apply(variables, *columns, train=train), variables


def bare(network: Classifier) -> Classifier:
    """Returns the network without what it is loaded from; its ``init`` gives random values."""
    return Classifier(network.backbone, network.head) if isinstance(network, Loaded) else network


def network_of(backbone: nn.Module, head: nn.Module | None) -> Classifier:
    """Returns the network of a backbone and a head.

    A whole network in place of the backbone gives its backbone, and the weights of this that it is loaded from.
    """
    if isinstance(backbone, Loaded):
        return backbone.clone(head=head, new_head=True)
    return Classifier(backbone.backbone if isinstance(backbone, Classifier) else backbone, head)


def filled(variables: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `variables` with the arrays of `given`, a part of the same tree, in their places."""
    flat = traverse_util.flatten_dict(dict(variables), keep_empty_nodes=True)
    for path, array in traverse_util.flatten_dict(dict(given)).items():
        flat[path] = jnp.asarray(array, flat[path].dtype)
    return traverse_util.unflatten_dict(flat)
