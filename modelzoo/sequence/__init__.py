"""Sequence models, one family per file; `trunk.py` is the network around their mixers."""
