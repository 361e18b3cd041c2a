"""CoAtNet-0: two stages of mobile convolutions, then two of attention to the whole map.

CoAtNet: Marrying Convolution and Attention for All Data Sizes, Dai et al., 2021, https://arxiv.org/abs/2106.04803.

    python train.py --config configs/coatnet_0.py --workdir runs/coatnet_0
    python train.py --config configs/coatnet_0.py:digits --workdir runs/coatnet_digits
    python train.py --config configs/coatnet_0.py:conv_digits --workdir runs/coatnet_conv_digits

Published: 25 M parameters, 81.6 % top-1 on ImageNet-1k at 224 px. Not run here; the authors published no code, and this
is table 12 of the paper: 300 epochs of batches of 4,096, 10,000 steps of them warm-up to a rate of 1e-3, a cosine to
1e-5, AdamW with a decay of 0.05, gradients clipped to a norm of 1, stochastic depth 0.2 (0.3, 0.5 and 0.7 for CoAtNet-1
to 3), RandAugment of two operations of magnitude 15, mixup 0.8, labels smoothed by 0.1. bfloat16 with float32
parameters (--config.task.backbone.dtype=float32 for full precision).

Of the small presets `conv_digits` has mobile convolutions in both stages, one more in the second, with about as many
parameters.
"""

from longview.configs import base

BACKBONE = base.backbone('coatnet_0_224')
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SHAPE = {'stem_widths': (16, 32), 'widths': (32, 64), 'depths': (1, 2), 'attends': (False, True), 'hidden': False}
SMALL = BACKBONE | SHAPE | {'stem_stride': 1, 'image_size': 8}
CONV = SMALL | {'depths': (1, 3), 'attends': (False, False)}
TINY = BACKBONE | SHAPE | {'image_size': 32, 'drop_path': 0.1}
RANDAUGMENT = {
    'fn': 'methods.randaugment:RandAugment',
    'magnitude': 15.0,
    'magnitude_std': 0.0,
    'layers': 2,
    'probability': 1.0,
    'contrast': 'published',
}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, end=1e-5, weight_decay=0.05, clip_norm=1.0, warmup_epochs=warmup_epochs)
    mixup = base.mixup(alpha=0.8) | {'label_smoothing': 0.1}
    config = base.imagenet(backbone, optimizer, batch_size=4096, ema=None)
    return config | {'train_transforms': [RANDAUGMENT, base.normalize(), mixup]}


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=32.0),
    digits=base.digits(SMALL),
    conv_digits=base.digits(CONV),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
