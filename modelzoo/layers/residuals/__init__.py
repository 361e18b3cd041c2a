"""Residual connections: how branches read from and write to the residual stream."""
