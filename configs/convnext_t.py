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

BACKBONE = base.backbone('convnext_tiny', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 2), 'kernel_size': 5}
TINY = SMALL | {'widths': (16, 32), 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    return base.imagenet(backbone, base.adamw(peak=4e-3, weight_decay=0.05, **schedule), batch_size=4096)


get_config = base.presets(
    imagenet=recipe(PAPER, end=1e-6, warmup_epochs=20.0),
    digits=base.digits(SMALL | {'patch': 2}, epochs=60.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
