"""ViG-T: bidirectional gated linear attention for images.

ViG: Linear-complexity Visual Sequence Learning with Gated Linear Attention, Liao et al., 2024,
https://arxiv.org/abs/2405.18425. Recipe: https://github.com/hustvl/ViG (MIT), classification/configs/vig/vig-t.yaml.

    python train.py --config configs/vig_t.py --workdir runs/vig_t
    python train.py --config configs/vig_t.py:digits --workdir runs/vig_t_digits

Published: 6 M parameters, 77.2 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of 1,024,
20 of them warm-up; the peak rate is 1e-3 per 512 images; weight decay on every parameter of two or more axes,
the position table included; trained in float32, and here in bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for the published precision). Its yaml sets no drop path, so the
default 0 holds.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'vig_tiny',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
RECIPE = {'drop_path': 0.0, 'dtype': 'bfloat16'}


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=2e-3, start=1e-6, end=1e-5, warmup_epochs=20.0, weight_decay=0.05, clip_norm=5.0)
        return base.imagenet(BACKBONE | RECIPE, optimizer)

    def digits():
        return base.digits(BACKBONE | {'patch': 2, 'image_size': 8, 'width': 64, 'depth': 4, 'heads': 2})

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | {'patch': 4, 'image_size': 28, 'width': 64, 'depth': 3, 'heads': 2})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1} | {'image_size': 32, 'patch': 8, 'width': 32, 'depth': 2, 'heads': 2}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.05, clip_norm=5.0)
        return base.smoke(base.imagenet(shrunk, optimizer, ema=0.9), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
