"""Hiera-T: a pyramid of plain transformer blocks whose first stages attend inside of mask units.

Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles, Ryali et al., 2023,
https://arxiv.org/abs/2306.00989.

    python train.py --config configs/hiera_t.py --workdir runs/hiera_t
    python train.py --config configs/hiera_t.py:digits --workdir runs/hiera_t_digits
    python train.py --config configs/hiera_t.py:global_digits --workdir runs/hiera_t_global

Published: 28 M parameters, 82.8 % top-1 on ImageNet-1k at 224 px, after masked autoencoding on it. Not run here. The
reference, https://github.com/facebookresearch/hiera (Apache-2.0), has no code that trains; the first preset trains from
random values with DeiT's recipe, which is not what the paper reports. bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('hiera_tiny_224')
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'width': 32, 'depths': (1, 2), 'within': (True, False)}
TINY = SMALL | {'width': 16, 'stem_stride': 2, 'image_size': 32, 'drop_path': 0.1}
DIGITS = SMALL | {'stem_stride': 1, 'image_size': 8}


def recipe(backbone, **schedule):
    """DeiT's recipe for a network."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, decay_rules=(('pos_embed', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(DIGITS),
    global_digits=base.digits(DIGITS | {'within': (False, False)}),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
