"""The checker behind jaxtyping's import hook: beartype, with an int allowed where a float is asked for.

Where an int is, the size of a batch may be a symbol (`jax.export.symbolic_shape`), which takes part in arithmetic as
one does; jax has no public name for its type.
"""

import beartype
import jax.export

_SYMBOL = type(jax.export.symbolic_shape('b')[0])

typecheck = beartype.beartype(
    conf=beartype.BeartypeConf(is_pep484_tower=True, hint_overrides=beartype.FrozenDict({int: int | _SYMBOL}))
)
