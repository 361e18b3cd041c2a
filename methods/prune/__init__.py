"""Pruning: Task -> Task, weights held at zero by masks."""
