"""SAM: supervised training at the worst weights nearby.

Sharpness-Aware Minimization for Efficiently Improving Generalization, Foret et al., 2021,
https://arxiv.org/abs/2010.01412.

    python train.py --config configs/sam.py:digits --workdir runs/sam_digits
    python train.py --config configs/sam.py:fashion_mnist --workdir runs/sam_fashion

Published: top-1 error of ResNet-50 on ImageNet-1k after 100 epochs from 22.9 to 22.5 %, rho 0.05. Not run here.
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


def sharp(config):
    """`config` with two gradients a step."""
    return config | {'task': {'fn': 'methods.optim.sam:Sam', 'inner': config['task'], 'rho': 0.05}}


def get_config(preset=None):
    """One small network for each of the small data sets."""

    def digits():
        return sharp(base.digits(BACKBONE, ema=None))

    def fashion_mnist():
        return sharp(base.fashion_mnist(BACKBONE | {'stem_stride': 4}, ema=None))

    return base.select(preset, {'digits': digits, 'fashion_mnist': fashion_mnist})
