"""UniRepLKNet-A: large kernels that are trained as the sum of dilated smaller ones.

UniRepLKNet, Ding et al., 2023, https://arxiv.org/abs/2311.15599. Recipe:
https://github.com/AILab-CVC/UniRepLKNet (Apache-2.0), Image/README.md and main.py.

    python train.py --config configs/unireplknet_a.py --workdir runs/unireplknet_a
    python train.py --config configs/unireplknet_a.py:digits --workdir runs/unireplknet_a_digits
    python train.py --config configs/unireplknet_a.py --workdir runs/unireplknet_p \\
        --config.task.backbone.variant=unireplknet_p --config.task.backbone.drop_path=0.1

Published: 4.4 M parameters when deployed, 77.0 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of
4,096, 20 of them warm-up to a rate of 4e-3, a cosine to 1e-6; mixup and cutmix of 0.3; scale and bias of the response
norms do not decay. What differs: batch statistics are of the whole batch, there of 128 images. bfloat16 with float32
parameters (--config.task.backbone.dtype=float32 for the published precision). The small presets evaluate the weights
themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = {'fn': 'modelzoo:backbone', 'variant': 'unireplknet_a', 'drop_path': 0.0, 'dtype': 'float32', 'remat': False}
SMALL = {'widths': (32, 64), 'depths': (2, 2), 'periods': (0, 1), 'kernel_size': 7}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.adamw(peak=4e-3, end=1e-6, warmup_epochs=warmup_epochs, weight_decay=0.05)
    config = base.imagenet(backbone, optimizer | {'decay_rules': (('/response/', 0.0),)}, batch_size=4096, ema=None)
    *others, mix = config['train_transforms']
    mix = mix | {'mixup_alpha': 0.3, 'cutmix_alpha': 0.3}
    return config | {'train_transforms': [*others, mix]}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the blocks and shrink width, depth and kernels."""

    def imagenet():
        return recipe(BACKBONE | {'dtype': 'bfloat16'}, 20.0)

    def digits():
        return base.digits(BACKBONE | SMALL | {'patch': 2}, epochs=60.0, ema=None)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | SMALL | {'patch': 4}, ema=None)

    def smoke():
        return base.smoke(recipe(BACKBONE | SMALL | {'drop_path': 0.1, 'widths': (16, 32)}, 0.1), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
