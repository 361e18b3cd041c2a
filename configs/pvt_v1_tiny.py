"""PVT-Tiny: a transformer in four resolutions, version 1.

Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions, Wang et al., 2021,
https://arxiv.org/abs/2102.12122. Recipe: https://github.com/whai362/PVT (Apache-2.0), classification/main.py and
classification/configs/pvt/pvt_tiny.py.

    python train.py --config configs/pvt_v1_tiny.py --workdir runs/pvt_v1_tiny
    python train.py --config configs/pvt_v1_tiny.py:digits --workdir runs/pvt_v1_tiny_digits

Published: 13.2 M parameters, 75.1 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 1,024, 5
of them warm-up; the peak rate is 5e-4 per 512 images; no decay of the class token. Not expressed: repeated
augmentation (each image three times in an epoch of a third as many). Trained in float16, and here in bfloat16 with
float32 parameters (--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('pvt_v1_tiny', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 2), 'heads': (1, 2), 'ratios': (4, 4), 'reductions': (2, 1)}
TINY = SMALL | {'patch': 4, 'image_size': 32, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, decay_rules=(('cls_token', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL | {'patch': 2, 'image_size': 8}, epochs=100.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
