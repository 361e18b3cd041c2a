"""MOAT-0: mobile convolutions, then blocks of a mobile convolution and attention.

MOAT: Alternating Mobile Convolution and Attention Brings Strong Vision Models, Yang et al., 2022,
https://arxiv.org/abs/2210.01820.

    python train.py --config configs/moat_0.py --workdir runs/moat_0
    python train.py --config configs/moat_0.py --workdir runs/tiny_moat_0 --config.task.backbone.variant=tiny_moat_0
    python train.py --config configs/moat_0.py:digits --workdir runs/moat_0_digits

Published: 27.8 M parameters, 83.3 % top-1 on ImageNet-1k at 224 px; tiny-MOAT-0 has 3.4 M and 76.6 % at 256 px. Not run
here. The reference, https://github.com/google-research/deeplab2 (Apache-2.0), has no code that trains classifiers;
of the recipe the 300 epochs are the paper's, the rest is DeiT's. bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = {'fn': 'modelzoo:backbone', 'variant': 'moat_0', 'drop_path': 0.0, 'dtype': 'float32', 'remat': False}
RECIPE = {'drop_path': 0.2, 'dtype': 'bfloat16'}
SMALL = {'stem_width': 32, 'widths': (32, 64), 'depths': (1, 2), 'attends': (False, True)}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0, weight_decay=0.05)
        return base.imagenet(BACKBONE | RECIPE, optimizer)

    def digits():
        return base.digits(BACKBONE | SMALL | {'stem_stride': 1, 'image_size': 8}, epochs=60.0)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | SMALL | {'stem_stride': 2, 'image_size': 28})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1} | SMALL | {'stem_stride': 2, 'image_size': 32}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.05)
        return base.smoke(base.imagenet(shrunk, optimizer), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
