"""PVTv2-B0: a transformer in four resolutions, version 2.

PVT v2: Improved Baselines with Pyramid Vision Transformer, Wang et al., 2021, https://arxiv.org/abs/2106.13797.
Recipe: https://github.com/whai362/PVT (Apache-2.0), classification/main.py and
classification/configs/pvt_v2/pvt_v2_b0.py.

    python train.py --config configs/pvt_v2_b0.py --workdir runs/pvt_v2_b0
    python train.py --config configs/pvt_v2_b0.py:digits --workdir runs/pvt_v2_b0_digits

Published: 3.7 M parameters, 70.5 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 1,024, 5 of
them warm-up; the peak rate is 5e-4 per 512 images. Not expressed: repeated augmentation (each image three times in an
epoch of a third as many). Trained in float16, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('pvt_v2_b0', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 2), 'heads': (1, 2), 'ratios': (4, 4), 'reductions': (2, 1)}
TINY = SMALL | {'patch': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    return base.imagenet(backbone, base.adamw(peak=1e-3, weight_decay=0.05, **schedule), ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL | {'patch': 2}),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
