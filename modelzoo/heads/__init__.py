"""Heads: features -> logits. A head reads the features it needs by key, so that a method need not know which."""

from longview.modelzoo.heads.classify import Classifier, Linear
from longview.modelzoo.heads.language import LanguageHead

__all__ = ['Classifier', 'LanguageHead', 'Linear']
