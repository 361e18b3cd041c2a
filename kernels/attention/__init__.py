"""Attention of tokens to tokens, with a bias, a mask, causal, in a window, with grouped heads; and its weights."""

from longview.kernels.attention.api import attention, attention_weights

__all__ = ['attention', 'attention_weights']
