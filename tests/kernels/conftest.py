"""Kernels for GPUs without a GPU; and which tests share programs."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def absent_gpu() -> Iterator[None]:
    """Allows lowering for CUDA on a host without a GPU; from 0.11 on jax has to be told which GPU."""
    named = contextlib.nullcontext()
    if jax.__version_info__ >= (0, 11):
        device = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', None, 'gpu')
        named = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))
    with named:
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of a file run in one process, which keeps the programs they share."""
    for item in items:
        if pathlib.Path(__file__).parent in item.path.parents and not item.get_closest_marker('xdist_group'):
            item.add_marker(pytest.mark.xdist_group(str(item.path)))
