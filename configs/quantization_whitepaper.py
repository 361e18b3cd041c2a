"""Eight-bit weights, trained for.

Quantizing deep convolutional networks for efficient inference: A whitepaper, Krishnamoorthi, 2018,
https://arxiv.org/abs/1806.08342.

    python train.py --config configs/quantization_whitepaper.py:digits --workdir runs/int8_digits
    python train.py --config configs/quantization_whitepaper.py:digits --workdir runs/int4_digits --config.task.bits=4

Published: ImageNet networks with integers for weights and activations, trained so, within 1 % of floating point at 8
bits. Not run here; activations are not quantised, see methods/quant/fake.py.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'resnet50',
    'drop_path': 0.0,
    'stem_stride': 1,
    'stem_width': 16,
    'depths': (1, 1, 1),
    'widths': (32, 64, 128),
}


def quantized(config):
    """`config` with rounded weights."""
    return config | {
        'task': {'fn': 'methods.quant.fake:FakeQuant', 'inner': config['task'], 'bits': 8, 'pattern': '.*kernel'}
    }


def get_config(preset=None):
    """One small network for each of the small data sets."""

    def digits():
        return quantized(base.digits(BACKBONE, ema=None))

    def fashion_mnist():
        return quantized(base.fashion_mnist(BACKBONE | {'stem_stride': 4}, ema=None))

    return base.select(preset, {'digits': digits, 'fashion_mnist': fashion_mnist})
