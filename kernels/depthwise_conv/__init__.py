"""Depthwise 2-D convolution: `depthwise_conv`, and InceptionNeXt's mixer: `inception_conv`."""

from longview.kernels.depthwise_conv.api import depthwise_conv, inception_conv

__all__ = ['depthwise_conv', 'inception_conv']
