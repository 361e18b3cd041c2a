"""Convolution with kernels as large as the image: `long_conv2d`; with kernels given as spectra: `global_filter`."""

from longview.kernels.long_conv2d.api import global_filter, long_conv2d

__all__ = ['global_filter', 'long_conv2d']
