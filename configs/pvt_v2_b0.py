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

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'pvt_v2_b0',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = {'widths': (32, 64), 'depths': (2, 2), 'heads': (1, 2), 'ratios': (4, 4), 'reductions': (2, 1)}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0, weight_decay=0.05)
        return base.imagenet(BACKBONE | RECIPE, optimizer, ema=None)

    def digits():
        return base.digits(BACKBONE | SMALL | {'patch': 2})

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | SMALL | {'patch': 4})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1} | SMALL | {'patch': 4}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.05)
        return base.smoke(base.imagenet(shrunk, optimizer, ema=None), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
