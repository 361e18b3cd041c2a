"""The checker behind jaxtyping's import hook: beartype, with an int allowed where a float is asked for."""

import beartype

typecheck = beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))
