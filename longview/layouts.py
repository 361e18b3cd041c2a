"""How arrays of several ranks lie on a mesh by one sharding."""

import jax


def of_rank(sharding: jax.sharding.Sharding, rank: int) -> jax.sharding.Sharding:
    """Returns the sharding of an array of `rank` dimensions, whose first ones are split as `sharding` splits its own.

    So one sharding says how the columns of a batch lie: rows along the first axis of each and, of sequences, tokens
    along the second one where there is one.
    """
    if not isinstance(sharding, jax.sharding.NamedSharding) or len(sharding.spec) <= rank:
        return sharding
    return sharding.update(spec=jax.sharding.PartitionSpec(*sharding.spec[:rank]))
