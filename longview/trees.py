"""Paths of arrays in a tree, as this project writes them: ``backbone/block03/mlp/down/kernel``."""

from typing import Any

import jax


def path_of(key_path: Any) -> str:
    """Writes a jax key path as ``a/b/c``."""
    return jax.tree_util.keystr(key_path, simple=True, separator='/')


def by_path(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their paths."""
    return {path_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
