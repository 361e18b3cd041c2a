"""Optimizers and schedules: builders of optax gradient transformations, chosen by path."""
