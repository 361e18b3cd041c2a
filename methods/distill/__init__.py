"""Distillation: objectives that learn from other networks' answers."""
