"""Convolution of images: `conv2d`."""

from longview.kernels.conv2d.api import conv2d

__all__ = ['conv2d']
