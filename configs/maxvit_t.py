"""MaxViT-T: in each block a mobile convolution, attention inside of windows, and attention to a grid of far pixels.

MaxViT: Multi-Axis Vision Transformer, Tu et al., 2022, https://arxiv.org/abs/2204.01697. Reference:
https://github.com/google-research/maxvit (Apache-2.0).

    python train.py --config configs/maxvit_t.py --workdir runs/maxvit_t
    python train.py --config configs/maxvit_t.py:digits --workdir runs/maxvit_digits
    python train.py --config configs/maxvit_t.py:near_digits --workdir runs/maxvit_near_digits

Published: 31 M parameters, 83.62 % top-1 on ImageNet-1k at 224 px. Not run here; the repository has no code that
trains, and this is the paper's appendix: 300 epochs of batches of 4,096, 10,000 steps of them warm-up to a rate of
3e-3, a cosine to 1e-5, AdamW with a decay of 0.05, gradients clipped to a norm of 1, stochastic depth 0.2 (0.3, 0.4 and
0.6 for S, B and L), RandAugment of two operations of magnitude 15, mixup 0.8, labels smoothed by 0.1, weights averaged
by 0.9999. bfloat16 with float32 parameters (--config.task.inner.backbone.dtype=float32 for full precision).

Of the small presets `near_digits` has windows in the place of grids, with as many parameters.
"""

from longview.configs import base

BACKBONE = base.backbone('maxvit_tiny_tf_224')
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SHAPE = {'stem_widths': (16, 32), 'widths': (32, 64), 'depths': (1, 1), 'hidden': False}
SMALL = BACKBONE | SHAPE | {'stem_stride': 1, 'image_size': 8}
NEAR = SMALL | {'spread': False}
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
    optimizer = base.adamw(peak=3e-3, end=1e-5, weight_decay=0.05, clip_norm=1.0, warmup_epochs=warmup_epochs)
    mixup = base.mixup(alpha=0.8) | {'label_smoothing': 0.1}
    config = base.imagenet(backbone, optimizer, batch_size=4096)
    return config | {'train_transforms': [RANDAUGMENT, base.normalize(), mixup]}


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=32.0),
    digits=base.digits(SMALL),
    near_digits=base.digits(NEAR),
    fashion_mnist=base.fashion_mnist(SMALL | {'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
