"""HorNet-T: convolutions whose parts multiply each other recursively.

HorNet: Efficient High-Order Spatial Interactions with Recursive Gated Convolutions, Rao et al., 2022,
https://arxiv.org/abs/2207.14284. Recipe: https://github.com/raoyongming/HorNet (MIT), TRAINING.md and main.py.

    python train.py --config configs/hornet_t.py --workdir runs/hornet_t
    python train.py --config configs/hornet_t.py:digits --workdir runs/hornet_t_digits
    python train.py --config configs/hornet_t.py --workdir runs/hornet_t_gf \\
        --config.task.inner.backbone.variant=hornet_tiny_gf --config.optimizer.clip_norm=1.0

Published: 22 M parameters and 82.8 % top-1 on ImageNet-1k at 224 px, with global filters 23 M and 83.0 %. Not run here.
300 epochs of batches of 4,096, 20 of them warm-up to a rate of 4e-3, a cosine to 1e-6, gradients clipped at a norm of
100 (1 with global filters), averaged weights. bfloat16 with float32 parameters and filters
(--config.task.inner.backbone.dtype=float32 for the published precision). The small presets have global filters in
their last stage.
"""

from longview.configs import base

BACKBONE = base.backbone('hornet_tiny_7x7', scan=False)
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'width': 32, 'depths': (2, 2), 'orders': (2, 3), 'global_from': 1}
TINY = SMALL | {'image_size': 32, 'width': 16, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=4e-3, weight_decay=0.05, clip_norm=100.0, **schedule)
    return base.imagenet(backbone, optimizer, batch_size=4096)


get_config = base.presets(
    imagenet=recipe(PAPER, end=1e-6, warmup_epochs=20.0),
    digits=base.digits(SMALL | {'patch': 2, 'image_size': 8}, epochs=60.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
