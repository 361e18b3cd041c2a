"""Layers are small, and their tests run operations one by one: each of them is compiled quickly."""

from collections.abc import Iterator

import jax
import pytest

from tests import goldens


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    before = jax.config.values['jax_disable_most_optimizations']
    jax.config.update('jax_disable_most_optimizations', bool(goldens.QUICK))  # empty with --compile=full
    yield
    jax.config.update('jax_disable_most_optimizations', before)
