"""Gated linear attention: `gla`, `bidirectional_gla` and the one-token `gla_step`."""

from kernels.gla.api import bidirectional_gla, gla, gla_step

__all__ = ['bidirectional_gla', 'gla', 'gla_step']
