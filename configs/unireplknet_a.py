"""UniRepLKNet-A: large kernels that are trained as the sum of dilated smaller ones.

UniRepLKNet, Ding et al., 2023, https://arxiv.org/abs/2311.15599. Recipe:
https://github.com/AILab-CVC/UniRepLKNet (Apache-2.0), Image/README.md and main.py.

    python train.py --config configs/unireplknet_a.py --workdir runs/unireplknet_a
    python train.py --config configs/unireplknet_a.py:digits --workdir runs/unireplknet_a_digits
    python train.py --config configs/unireplknet_a.py --workdir runs/unireplknet_p \\
        --config.task.backbone.variant=unireplknet_p --config.task.backbone.drop_path=0.1

Published: 4.4 M parameters when deployed, 77.0 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs of batches of
4,096, 20 of them warm-up to a rate of 4e-3, a cosine to 1e-6; mixup and cutmix of 0.3; scale and bias of the response
norms do not decay. What differs: batch statistics are of the whole batch, there of 128 images. bfloat16 with float32
parameters (--config.task.backbone.dtype=float32 for the published precision). The small presets evaluate the weights
themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('unireplknet_a')
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 2), 'periods': (0, 1), 'kernel_size': 7}
TINY = SMALL | {'widths': (16, 32), 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    rules = (('/response/', 0.0),)
    optimizer = base.adamw(peak=4e-3, end=1e-6, warmup_epochs=warmup_epochs, weight_decay=0.05, decay_rules=rules)
    return base.imagenet(backbone, optimizer, batch_size=4096, ema=None) | {
        'train_transforms': base.timm_transforms(mixup_alpha=0.3, cutmix_alpha=0.3)
    }


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=20.0),
    digits=base.digits(SMALL | {'patch': 2}, epochs=60.0, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
