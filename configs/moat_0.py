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

BACKBONE = base.backbone('moat_0')
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'stem_width': 32, 'widths': (32, 64), 'depths': (1, 2), 'attends': (False, True)}
TINY = SMALL | {'stem_stride': 2, 'image_size': 32, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    return base.imagenet(backbone, base.adamw(peak=1e-3, weight_decay=0.05, **schedule))


get_config = base.presets(
    imagenet=recipe(PAPER, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL | {'stem_stride': 1, 'image_size': 8}, epochs=60.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
