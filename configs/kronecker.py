"""Kronecker attention in a vision transformer and in a ResNet: attention over the means of rows and columns.

Kronecker Attention Networks, Gao et al., 2020, https://arxiv.org/abs/2007.08442. Recipe of ImageNet:
configs/vit_s16.py, of Beyer et al., 2022, https://arxiv.org/abs/2205.01580.

    python train.py --config configs/kronecker.py --workdir runs/kronecker
    python train.py --config configs/kronecker.py:digits --workdir runs/kronecker_digits
    python train.py --config configs/kronecker.py:plain_digits --workdir runs/kronecker_plain_digits
    python train.py --config configs/kronecker.py:conv_digits --workdir runs/kronecker_conv_digits

Published: the paper's tables of convolutional networks on ImageNet, whose code was not at hand; it has no vision
transformer. ImageNet was not run here. `digits` is a transformer whose tokens are the 64 pixels, each of whose layers
attends over the means of 8 rows and 8 columns; in `kv_digits` all pixels are queries, in `plain_digits` the keys are
all pixels too, all else equal. `conv_digits`, `plain_conv_digits` and `without_conv_digits` are a ResNet with such
attention, with attention over all pixels, and with none at the end of each branch. What they reach: docs/results.md.
"""

from longview.configs import base

VIT = base.backbone('vit_small_patch16_224', fn='modelzoo.vision.vit:vit', plain=True, scan=False)
SMALL = VIT | {'patch': 1, 'width': 48, 'depth': 3, 'heads': 2}
TINY = VIT | {'patch': 8, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}
CONV = base.RESNET | {'widths': (16, 32, 64)}


def attention(form, **fields):
    """Attention of this form."""
    return {'partial': 'modelzoo.layers.attention.kronecker:KroneckerAttention', 'form': form} | fields


def mixed(backbone, form='qkv'):
    """A transformer with attention of this form."""
    return backbone | {'mixer': {'partial': 'modelzoo.layers.attention.kronecker:OnGrid', 'part': attention(form)}}


def attending(form):
    """The ResNet with attention of this form at the end of each branch."""
    part = attention(form, heads=2, skip=True)
    block = {'partial': 'modelzoo.vision.resnet:Bottleneck', 'attention': part}
    return CONV | {'block': block}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    return base.imagenet(mixed(backbone), optimizer, epochs=90.0, ema=None) | transforms


get_config = base.presets(
    imagenet=recipe(VIT | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=base.digits(mixed(SMALL)),
    kv_digits=base.digits(mixed(SMALL, 'kv')),
    plain_digits=base.digits(mixed(SMALL, 'full')),
    conv_digits=base.digits(attending('qkv'), ema=None),
    plain_conv_digits=base.digits(attending('full'), ema=None),
    without_conv_digits=base.digits(CONV, ema=None),
    fashion_mnist=base.fashion_mnist(mixed(SMALL | {'patch': 2})),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
