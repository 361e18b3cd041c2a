"""NormFormer's norms and scales in a vision transformer.

NormFormer: Improved Transformer Pretraining with Extra Normalization, Shleifer et al., 2021,
https://arxiv.org/abs/2110.09456. Recipe of ImageNet: configs/vit_s16.py, of Beyer et al., 2022,
https://arxiv.org/abs/2205.01580, with a class token and learned positions.

    python train.py --config configs/normformer.py --workdir runs/normformer
    python train.py --config configs/normformer.py:digits --workdir runs/normformer_digits
    python train.py --config configs/normformer.py:plain_digits --workdir runs/plain_vit_digits

Published: the paper has language models alone. 1.3 B parameters reach the perplexity of their baseline 24 % faster, or
one that is 0.27 better; those of 125 M train at a rate of 3e-3 in the place of 1e-3, by the commands of
https://github.com/facebookresearch/fairseq (MIT), examples/normformer. ImageNet was not run here. `digits` is a ViT of
3 blocks of 48 channels on 4 patches, whose mean is read, with all four parts, `plain_digits` the same without, at the
same rate. What they reach: docs/results.md.
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
NORM = {'partial': 'modelzoo.layers.norms.norm:LayerNorm', 'epsilon': 1e-5}
PARTS = {
    'mixer': {'head_scale': 'heads', 'out_norm': NORM},
    'mlp': {'hidden_norm': NORM},
    'residual': {'partial': 'modelzoo.layers.residuals.normformer:ResScale'},
}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    return base.imagenet(backbone | PARTS, optimizer, epochs=90.0, ema=None) | transforms


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=base.digits(SMALL | PARTS, epochs=60.0, ema=None),
    plain_digits=base.digits(SMALL, epochs=60.0, ema=None),
    fashion_mnist=base.fashion_mnist(POOLED | {'image_size': 28, 'patch': 4} | PARTS, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
