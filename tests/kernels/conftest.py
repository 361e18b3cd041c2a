"""Kernels for GPUs without a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import pytest


@pytest.fixture
def absent_gpu() -> Iterator[None]:
    """What is lowered for CUDA is for a GPU that this host lacks; jax asks which one from 0.11 on."""
    named = contextlib.nullcontext()
    if jax.__version_info__ >= (0, 11):
        device = jax.sharding.AbstractDevice('NVIDIA H100 80GB HBM3', None, 'gpu')
        named = jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=device))
    with named:
        yield
