"""Scalable neural network kernels: a vision transformer whose feed-forward layers see random features alone.

Scalable Neural Network Kernels, Sehanobish et al., 2023, https://arxiv.org/abs/2310.13225. Recipe of ImageNet:
configs/vit_s16.py, of Beyer et al., 2022, https://arxiv.org/abs/2205.01580.

    python train.py --config configs/snnk.py --workdir runs/snnk
    python train.py --config configs/snnk.py:digits --workdir runs/snnk_digits
    python train.py --config configs/snnk.py:plain_digits --workdir runs/narrow_mlp_digits
    python train.py --config configs/snnk.py:full_digits --workdir runs/full_mlp_digits

Published: up to 5 times fewer trained parameters at competitive accuracy, for trained transformers that go on with some
of their layers replaced (16 random features cut at -5) or with adapters (8, cut at 0). Not run here: training from the
start is ours. `digits` is a ViT of 3 blocks of 48 channels on 4 patches whose feed-forward layers have 32 random
features, 1,536 trained numbers each; `plain_digits` has plain ones of 15 hidden units, 1,503 numbers; those of
`full_digits` have the usual 4 times the width, 18,672 numbers. Adapters are `modelzoo.layers.snnk:AdaptedMlp` in the
place of the ViT's Mlp, whose weights they take. No preset was run to its end here.
"""

from longview.configs import base

VIT = base.backbone('vit_small_patch16_224', fn='modelzoo.vision.vit:vit', plain=True, scan=False)
POOLED = VIT | {'width': 48, 'depth': 3, 'heads': 3}
SMALL = POOLED | {'image_size': 8, 'patch': 4}
TINY = VIT | {'patch': 8, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}


def features(count):
    """The field of a backbone whose feed-forward layers have so many random features; published settings else."""
    layer = {'partial': 'modelzoo.layers.snnk:ReluSnnk', 'random_features': count, 'floor': -5.0, 'normalize': True}
    return {'mlp': layer}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    return base.imagenet(backbone | features(16), optimizer, epochs=90.0, ema=None) | transforms


get_config = base.presets(
    imagenet=recipe(VIT | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=base.digits(SMALL | features(32), epochs=60.0, ema=None),
    plain_digits=base.digits(SMALL | {'mlp': {'hidden': 15}}, epochs=60.0, ema=None),
    full_digits=base.digits(SMALL, epochs=60.0, ema=None),
    fashion_mnist=base.fashion_mnist(POOLED | {'image_size': 28, 'patch': 4} | features(32), ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
