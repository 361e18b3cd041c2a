"""What dense objectives ask of their network and of a batch, before anything is computed."""

from collections.abc import Mapping
from typing import Any

from longview.modelzoo import features as ft
from longview.modelzoo.heads import Classifier


def check_network(network: Classifier, who: str) -> None:
    """Refuses a head that is not for dense tasks, and a backbone that lacks what the head needs.

    Args:
        network: the backbone and its head; the head's `needs` names a capability.
        who: the objective, for the message.

    Raises:
        TypeError: they do not fit.
    """
    head = type(network.head).__name__
    if not hasattr(network.head, 'needs'):
        raise TypeError(
            f'{who} has the head {head}, which gives no map: take one of modelzoo/heads/segment.py or detect.py.'
        )
    if network.head.needs is not ft.Backbone:
        ft.require(network.backbone, network.head.needs, f'{who} with {head}')


def check_columns(batch: Mapping[str, Any], wanted: Mapping[str, str], who: str) -> None:
    """Refuses a batch without the columns that an objective learns from.

    Args:
        batch: arrays or shapes by name.
        wanted: the axes of each column, such as ``'B N 4'``; those of one name are equally long.
        who: the objective, for the message.

    Raises:
        ValueError: one is missing or has another shape.
    """
    missing = [name for name in wanted if name not in batch]
    if missing:
        raise ValueError(
            f'{who} learns from {", ".join(missing)}, and the batch has {", ".join(sorted(batch))}: take a data set '
            'with these columns.'
        )
    sizes: dict[str, int] = {}
    for name, axes in wanted.items():
        shape, axes = tuple(batch[name].shape), axes.split()
        size_of = lambda axis, length: int(axis) if axis.isdigit() else sizes.setdefault(axis, length)
        if len(shape) != len(axes) or any(size_of(*pair) != pair[1] for pair in zip(axes, shape)):
            known = ''.join(f', {axis} is {length}' for axis, length in sizes.items())
            raise ValueError(f'{name} has shape {shape}, and {who} wants ({", ".join(axes)}){known}.')
