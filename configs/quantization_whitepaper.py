"""Eight-bit weights, trained for.

Quantizing deep convolutional networks for efficient inference: A whitepaper, Krishnamoorthi, 2018,
https://arxiv.org/abs/1806.08342.

    python train.py --config configs/quantization_whitepaper.py:digits --workdir runs/int8_digits
    python train.py --config configs/quantization_whitepaper.py:digits --workdir runs/int4_digits --config.task.bits=4

Published: ImageNet networks with integers for weights and activations, trained so, within 1 % of floating point at 8
bits. Not run here; activations are not quantised, see methods/quant/fake.py.
"""

from longview.configs import base


def quantized(config):
    """`config` with rounded weights."""
    return config | {
        'task': {'fn': 'methods.quant.fake:FakeQuant', 'inner': config['task'], 'bits': 8, 'pattern': '.*kernel'}
    }


get_config = base.presets(
    digits=quantized(base.digits(base.RESNET, ema=None)),
    fashion_mnist=quantized(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None)),
)
