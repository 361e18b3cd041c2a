"""ReZero on a vision transformer: no norm anywhere, a network of any depth starts as the identity.

ReZero is All You Need: Fast Convergence at Large Depth, Bachlechner et al., 2020, https://arxiv.org/abs/2003.04887.
Recipe of ImageNet: configs/vit_s16.py, of Beyer et al., 2022, https://arxiv.org/abs/2205.01580.

    python train.py --config configs/rezero_vit.py --workdir runs/rezero_vit
    python train.py --config configs/rezero_vit.py:digits --workdir runs/rezero_vit_digits
    python train.py --config configs/rezero_vit.py:plain_digits --workdir runs/plain_vit_digits
    python train.py --config configs/rezero_vit.py:norm_digits --workdir runs/norm_vit_digits

Published: the paper has no vision transformer; of language models on enwik8 it trains those of 120 layers, and those
of 12 layers 56 % faster. ImageNet was not run here. Matrices start by He's rule. `digits` is a network of 28 blocks
of 32 channels, 112 matrices one after the other; `plain_digits` is the same with plain sums, `norm_digits` with plain
sums and a LayerNorm before each branch, all else equal. What they reach: docs/results.md.
"""

from longview.configs import base

HE = {'fn': 'jax.nn.initializers:he_normal'}
BACKBONE = {
    'fn': 'modelzoo.vision.vit:ViT',
    'width': 384,
    'depth': 12,
    'heads': 6,
    'patch': 16,
    'prefix': (),
    'pool': 'mean',
    'fixed_positions': {'partial': 'modelzoo.layers.attention.posemb:sincos2d'},
    'drop_path': 0.0,
    'norm': {'partial': 'modelzoo.layers.norms.norm:NoNorm'},
    'mixer': {'partial': 'modelzoo.layers.attention.attention:Attention', 'kernel_init': HE},
    'mlp': {'partial': 'modelzoo.layers.frame.mlp:Mlp', 'kernel_init': HE, 'ratio': 4.0},
    'residual': {'partial': 'modelzoo.layers.residuals.rezero:ReZero'},
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
DEEP = BACKBONE | {'width': 32, 'depth': 28, 'heads': 2, 'patch': 4, 'scan': True}
SMALL = BACKBONE | {'patch': 4, 'width': 64, 'depth': 3, 'heads': 2}
TINY = BACKBONE | {'patch': 8, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}
ADD = {'partial': 'modelzoo.layers.residuals.residual:Add'}
NORM = {'partial': 'modelzoo.layers.norms.norm:LayerNorm', 'epsilon': 1e-6}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    return base.imagenet(backbone, optimizer, epochs=90.0, ema=None) | base.big_vision_augmentation()


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=base.digits(DEEP, peak=1e-3, ema=None),
    plain_digits=base.digits(DEEP | {'residual': ADD}, peak=1e-3, ema=None),
    norm_digits=base.digits(DEEP | {'residual': ADD, 'norm': NORM}, peak=1e-3, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
