"""Heads: features -> logits. A head reads the features that it needs by key; a method need not know which they are."""

from longview.modelzoo.heads.classify import Classifier, Linear
from longview.modelzoo.heads.language import LanguageHead
from longview.modelzoo.heads.loaded import Loaded, bare, filled, network_of
from longview.modelzoo.heads.two import TwoHeads

__all__ = ['Classifier', 'LanguageHead', 'Linear', 'Loaded', 'TwoHeads', 'bare', 'filled', 'network_of']
