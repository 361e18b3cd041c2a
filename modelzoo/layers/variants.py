"""A family's variant with some of its fields changed, as a config asks for it."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn


def changed(variants: Mapping[str, nn.Module], name: str, kind: type[nn.Module], changes: Mapping[str, Any]
            ) -> nn.Module:
    """Returns the variant `name`; of the `changes`, those that are None leave it as it is.

    The family may be left out of the name where that is clear: 'small' for 'convnext_small'.

    Raises:
        ValueError: there is no such variant of this class.
    """
    ours = {key: backbone for key, backbone in variants.items() if isinstance(backbone, kind)}
    if name not in ours:
        meant = [key for key in ours if key.endswith(f'_{name}')]
        name = meant[0] if len(meant) == 1 else name
    if name not in ours:
        raise ValueError(f'{kind.__name__} has no variant {name!r}: use one of {", ".join(ours)}.')
    return ours[name].clone(**{field: value for field, value in changes.items() if value is not None})
