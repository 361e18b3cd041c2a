"""A vision transformer whose stream has no mean over its channels, so that RMSNorm is LayerNorm.

Pre-RMSNorm and Pre-CRMSNorm Transformers: Equivalent and Efficient Pre-LN Transformers, Jiang et al., 2023,
https://arxiv.org/abs/2305.14858. Recipe of ImageNet: configs/vit_s16.py, of Beyer et al., 2022,
https://arxiv.org/abs/2205.01580, with the class token and the learned positions of the paper's networks.

    python train.py --config configs/pre_rmsnorm.py --workdir runs/pre_rmsnorm
    python train.py --config configs/pre_rmsnorm.py:digits --workdir runs/pre_rmsnorm_digits
    python train.py --config configs/pre_rmsnorm.py:compressed_digits --workdir runs/pre_crmsnorm_digits
    python train.py --config configs/pre_rmsnorm.py:plain_digits --workdir runs/pre_ln_digits

Published: training and inference of vision transformers and of GPT take 1 to 10 % less time; no accuracies, for the
networks are the same. ImageNet was not run here. `digits` is a ViT of 3 blocks of 48 channels with centered weights, on
4 patches whose mean is read, `plain_digits` the same with LayerNorm, from the same initial values and with the same
gradients but for rounding; `compressed_digits` stores 47 of 48 channels, and its norms have nothing to learn. A trained
network is converted by `modelzoo.pre_rms`. What they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'vit_small_patch16_224',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
POOLED = BACKBONE | {'prefix': (), 'pool': 'mean', 'width': 48, 'depth': 3, 'heads': 3}
SMALL = POOLED | {'image_size': 8, 'patch': 4}
TINY = BACKBONE | {'patch': 8, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}
NORM = {'partial': 'modelzoo.layers.norms.norm:RMSNorm', 'epsilon': 1e-6, 'use_bias': True}
COMPRESSED = SMALL | {
    'width': 47,
    'norm': {'partial': 'modelzoo.layers.norms.zero_mean:CRMSNorm', 'epsilon': 1e-6},
    'mixer': {'head_width': 16},
    'mlp': {'hidden': 192},
}


def zero_mean(config):
    """`config` with a stream that is kept without a mean."""
    return config | {'task': {'fn': 'methods.zero_mean:ZeroMean', 'inner': config['task']}}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    return zero_mean(base.imagenet(backbone | {'norm': NORM}, optimizer, epochs=90.0, ema=None) | transforms)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=zero_mean(base.digits(SMALL | {'norm': NORM}, epochs=60.0, ema=None)),
    compressed_digits=base.digits(COMPRESSED, epochs=60.0, ema=None),
    plain_digits=base.digits(SMALL, epochs=60.0, ema=None),
    fashion_mnist=zero_mean(base.fashion_mnist(POOLED | {'image_size': 28, 'patch': 4, 'norm': NORM}, ema=None)),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
