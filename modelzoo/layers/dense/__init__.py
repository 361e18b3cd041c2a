"""Layers of dense prediction: between the stages of a pyramid and a head."""
