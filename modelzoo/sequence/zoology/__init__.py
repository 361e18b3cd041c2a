"""Zoology's language models, and the mixers that only they use; the network is in network.py."""

from longview.modelzoo.sequence.zoology.network import KINDS, NAMES, PUBLISHED, VARIANTS, zoology

__all__ = ['KINDS', 'NAMES', 'PUBLISHED', 'VARIANTS', 'zoology']
