"""Mixers of sequences: state spaces, long convolutions, causal attention."""
