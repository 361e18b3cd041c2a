"""ConvNeXt-T: a residual network modernized with what transformers are trained and built with.

A ConvNet for the 2020s, Liu et al., 2022, https://arxiv.org/abs/2201.03545. Recipe:
https://github.com/facebookresearch/ConvNeXt (MIT), TRAINING.md and main.py.

    python train.py --config configs/convnext_t.py --workdir runs/convnext_t
    python train.py --config configs/convnext_t.py:digits --workdir runs/convnext_t_digits
    python train.py --config configs/convnext_t.py --workdir runs/convnext_s \\
        --config.task.inner.backbone.variant=convnext_small --config.task.inner.backbone.drop_path=0.4

Published: 28 M parameters, 82.1 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 4,096, 20 of
them warm-up to a rate of 4e-3, a cosine to 1e-6, averaged weights. bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for the published precision).
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'convnext_tiny',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = {'widths': (32, 64), 'depths': (2, 2), 'kernel_size': 5}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the blocks and shrink width, depth and kernels."""

    def imagenet():
        optimizer = base.adamw(peak=4e-3, end=1e-6, warmup_epochs=20.0, weight_decay=0.05)
        return base.imagenet(BACKBONE | RECIPE, optimizer, batch_size=4096)

    def digits():
        return base.digits(BACKBONE | SMALL | {'patch': 2}, epochs=60.0)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | SMALL | {'patch': 4})

    def smoke():
        shrunk = BACKBONE | SMALL | {'drop_path': 0.1, 'widths': (16, 32)}
        optimizer = base.adamw(peak=4e-3, warmup_epochs=0.1, weight_decay=0.05)
        return base.smoke(base.imagenet(shrunk, optimizer), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
