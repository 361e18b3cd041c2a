"""InceptionNeXt-T: ConvNeXt whose large kernel is split into a small square and two bands.

InceptionNeXt: When Inception Meets ConvNeXt, Yu et al., 2023, https://arxiv.org/abs/2303.16900. Recipe:
https://github.com/sail-sg/inceptionnext (Apache-2.0), scripts/inceptionnext/train_inceptionnext_tiny.sh.

    python train.py --config configs/inceptionnext_t.py --workdir runs/inceptionnext_t
    python train.py --config configs/inceptionnext_t.py:digits --workdir runs/inceptionnext_t_digits

Published: 28 M parameters, 82.3 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 4,096, 20 of
them warm-up to a rate of 4e-3, a cosine to 0. What differs: batch statistics are of the whole batch, there of one
device's images. bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for the published precision).
The small presets evaluate the weights themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'inceptionnext_tiny',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = {'variant': 'inceptionnext_atto', 'widths': (32, 64), 'depths': (2, 2), 'ratios': (4, 3)}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep atto's blocks and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=4e-3, warmup_epochs=20.0, weight_decay=0.05)
        return base.imagenet(BACKBONE | RECIPE, optimizer, batch_size=4096, ema=None)

    def digits():
        return base.digits(BACKBONE | SMALL | {'patch': 2}, epochs=60.0, ema=None)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | SMALL | {'patch': 4}, ema=None)

    def smoke():
        shrunk = BACKBONE | SMALL | {'drop_path': 0.1, 'widths': (16, 32)}
        optimizer = base.adamw(peak=4e-3, warmup_epochs=0.1, weight_decay=0.05)
        return base.smoke(base.imagenet(shrunk, optimizer, ema=None), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
