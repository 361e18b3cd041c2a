"""Convolutions, and layers built on them."""
