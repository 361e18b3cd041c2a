"""Attention over the tokens of an image, and position embeddings."""
