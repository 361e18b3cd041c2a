"""HybridNorm in a vision transformer: norms of queries, keys and values, and in front of the feed-forward layer.

HybridNorm: Towards Stable and Efficient Transformer Training via Hybrid Normalization, Zhuo et al., 2025,
https://arxiv.org/abs/2503.04598. Recipe of ImageNet: configs/vit_s16.py, of Beyer et al., 2022,
https://arxiv.org/abs/2205.01580, with a class token and learned positions.

    python train.py --config configs/hybridnorm.py --workdir runs/hybridnorm
    python train.py --config configs/hybridnorm.py:digits --workdir runs/hybridnorm_digits
    python train.py --config configs/hybridnorm.py:star_digits --workdir runs/hybridnorm_star_digits
    python train.py --config configs/hybridnorm.py:plain_digits --workdir runs/plain_vit_digits

Published: language models, a dense one of 1.2 B parameters and one of experts with 7 B; curves in which their losses
are below those of pre-norm and post-norm, the dense one on 1 T words at a peak rate of 3e-4 and a decay of 0.1
(https://github.com/BryceZhuo/HybridNorm, dense_model/configs/exps/1.2B-dense-HybriedNorm.yaml). ImageNet was not run
here. `digits` is a ViT of 3 blocks of 48 channels on 4 patches, whose mean is read, `star_digits` the same with an
ordinary first block (HybridNorm*), `plain_digits` the same with LayerNorm before each branch. What they reach:
docs/results.md.
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
NORM = {'partial': 'modelzoo.layers.norms.norm:RMSNorm', 'epsilon': 1e-5}
HYBRID = {
    'norm': NORM,
    'mixer': {'qkv_norm': NORM},
    'block': {'partial': 'modelzoo.layers.mixers.hybrid_norm:HybridNorm'},
}
STAR = HYBRID | {'first_block': {'partial': 'modelzoo.layers.frame.block:PreNorm'}}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    return base.imagenet(backbone, optimizer, epochs=90.0, ema=None) | transforms


get_config = base.presets(
    imagenet=recipe(BACKBONE | STAR | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=base.digits(SMALL | HYBRID, epochs=60.0, ema=None),
    star_digits=base.digits(SMALL | STAR, epochs=60.0, ema=None),
    plain_digits=base.digits(SMALL, epochs=60.0, ema=None),
    fashion_mnist=base.fashion_mnist(POOLED | {'image_size': 28, 'patch': 4} | STAR, ema=None),
    smoke=base.smoke(recipe(TINY | STAR, warmup_epochs=0.1)),
)
