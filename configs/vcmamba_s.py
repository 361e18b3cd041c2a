"""VCMamba-S: convolutional stages, and four blocks at the end that scan the map in four directions.

VCMamba: Bridging Convolutions with Multi-Directional Mamba for Efficient Visual Representation, Munir et al., 2025,
https://arxiv.org/abs/2509.04669. Recipe: https://github.com/Wertyuui345/VCMamba, model/scripts/vcmamba-eff-s-multi.sh.

    python train.py --config configs/vcmamba_s.py --workdir runs/vcmamba_s
    python train.py --config configs/vcmamba_s.py --workdir runs/vcmamba_m --config.task.backbone.variant=vcmamba_m
    python train.py --config configs/vcmamba_s.py:digits --workdir runs/vcmamba_s_digits

Published: 10.5 M parameters, 78.7 % top-1 on ImageNet-1k at 224 px. Not run here. 300 epochs, batches of 128 on each of
17 devices at a rate of 1e-3 per 1,024 images (DeiT's scripts scale it per 512), stochastic depth 0.2. Not expressed: a
RegNetY-16GF that teaches a second head, without which the network has 0.3 M parameters less; repeated augmentation.
Trained in float32, and here in bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for full
precision).
"""

from longview.configs import base

BACKBONE = base.backbone('vcmamba_s')
PAPER = BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 3), 'scans': 2}
TINY = SMALL | {'stem_stride': 2, 'image_size': 32, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    return base.imagenet(backbone, base.adamw(peak=1e-3, weight_decay=0.05, **schedule))


get_config = base.presets(
    imagenet=recipe(PAPER, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(SMALL | {'stem_stride': 1, 'image_size': 8}),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
