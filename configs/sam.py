"""SAM: supervised training at the worst weights nearby.

Sharpness-Aware Minimization for Efficiently Improving Generalization, Foret et al., 2021,
https://arxiv.org/abs/2010.01412.

    python train.py --config configs/sam.py:digits --workdir runs/sam_digits
    python train.py --config configs/sam.py:fashion_mnist --workdir runs/sam_fashion

Published: top-1 error of ResNet-50 on ImageNet-1k after 100 epochs from 22.9 to 22.5 %, rho 0.05. Not run here.
"""

from longview.configs import base


def sharp(config):
    """`config` with two gradients a step."""
    return config | {'task': {'fn': 'methods.optim.sam:Sam', 'inner': config['task'], 'rho': 0.05}}


get_config = base.presets(
    digits=sharp(base.digits(base.RESNET, ema=None)),
    fashion_mnist=sharp(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None)),
)
