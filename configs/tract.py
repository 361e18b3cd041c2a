"""TrAct: supervised training with another gradient for the first layer.

TrAct: Making First-layer Pre-Activations Trainable, Petersen et al., 2024, https://arxiv.org/abs/2410.23970.

    python train.py --config configs/tract.py:digits --workdir runs/tract_digits
    python train.py --config configs/tract.py:fashion_mnist --workdir runs/tract_fashion

Published: training to the same accuracy 1.25 to 4 times as fast, over many networks. Not run here. Lambda is 0.1,
the published default.
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


def corrected(config, stride, padding):
    """`config` with the first layer's closed form."""
    task = {
        'fn': 'methods.optim.tract:TrAct',
        'inner': config['task'],
        'stride': stride,
        'padding': padding,
        'shrinkage': 0.1,
        'kernel': 'backbone/stem/conv/kernel',
    }
    return config | {'task': task}


def get_config(preset=None):
    """One small network for each of the small data sets."""

    def digits():
        return corrected(base.digits(BACKBONE, ema=None), 1, 1)

    def fashion_mnist():
        return corrected(base.fashion_mnist(BACKBONE | {'stem_stride': 4}, ema=None), 2, 3)

    return base.select(preset, {'digits': digits, 'fashion_mnist': fashion_mnist})
