"""MLP-Mixer-S/32: two matrices across the patches in place of attention.

MLP-Mixer: An all-MLP Architecture for Vision, Tolstikhin et al., 2021, https://arxiv.org/abs/2105.01601. Recipe:
https://github.com/google-research/big_vision (Apache-2.0), big_vision/configs/mlp_mixer_i1k.py, which is for
Mixer-B/16.

    python train.py --config configs/mixer_s32.py --workdir runs/mixer_s32
    python train.py --config configs/mixer_s32.py:digits --workdir runs/mixer_s32_digits

Published: 19 M parameters; its accuracy on ImageNet-1k alone is not, that of Mixer-B/16 is 76.4 % top-1 at 224 px.
Not run here. 300 epochs of batches of 4,096, 10,000 steps of warm-up, RandAugment of two operations of magnitude 15,
mixup of 0.5, stochastic depth of 0.1. The decay of 1e-4 is not multiplied by the rate there and is here, hence 0.1.
Not expressed: the linear fall of the rate (a cosine here) and one logistic loss a class (a softmax here). What
differs: RandAugment's magnitude ends at 10 here. bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for the published precision).
"""

from longview.configs import base

BACKBONE = base.backbone('mixer_s32_224', scan=False)
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'width': 64, 'depth': 4}
TINY = BACKBONE | {'patch': 8, 'width': 32, 'depth': 2, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.1, clip_norm=1.0, **schedule)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.5))
    return base.imagenet(backbone, optimizer, batch_size=4096, ema=None) | transforms


get_config = base.presets(
    imagenet=recipe(PAPER, end=1e-5, warmup_epochs=32.0),
    digits=base.digits(SMALL | {'patch': 2}),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
