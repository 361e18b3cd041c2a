"""CvT-13: a transformer in three resolutions with convolved queries, keys and values.

CvT: Introducing Convolutions to Vision Transformers, Wu et al., 2021, https://arxiv.org/abs/2103.15808. Recipe:
https://github.com/leoxiaobin/CvT (MIT), experiments/imagenet/cvt/cvt-13-224x224.yaml, on the eight devices of the
README's command.

    python train.py --config configs/cvt_13.py --workdir runs/cvt_13
    python train.py --config configs/cvt_13.py:digits --workdir runs/cvt_13_digits

Published: 20 M parameters, 81.6 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 2,048, 5 of
them warm-up; the peak rate is 2.5e-4 per 256 images; no decay of the class token. Not expressed: ten more epochs at
the last rate. Trained in float16, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = {'fn': 'modelzoo:backbone', 'variant': 'cvt_13', 'drop_path': 0.0, 'dtype': 'float32', 'remat': False}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = {'widths': (32, 64), 'depths': (1, 2), 'heads': (1, 2)}
NO_DECAY = {'decay_rules': (('cls_token', 0.0),)}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=2e-3, start=1e-6, end=1e-5, warmup_epochs=5.0, weight_decay=0.05) | NO_DECAY
        return base.imagenet(BACKBONE | RECIPE, optimizer, batch_size=2048, ema=None)

    def digits():
        return base.digits(BACKBONE | SMALL | {'patch': 1}, epochs=60.0)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | SMALL | {'patch': 2})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1} | SMALL | {'patch': 4}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.05) | NO_DECAY
        return base.smoke(base.imagenet(shrunk, optimizer, ema=None), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
