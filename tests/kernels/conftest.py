"""Kernels for GPUs without a GPU; and which tests share programs."""

from __future__ import annotations

import contextlib
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
