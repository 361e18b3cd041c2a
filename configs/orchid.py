"""Orchid in place of attention: a convolution over all tokens, whose kernel is made of them.

Orchid: Flexible and Data-Dependent Convolution for Sequence Modeling, Karami and Ghodsi, 2024,
https://arxiv.org/abs/2402.18508.

    python train.py --config configs/orchid.py --workdir runs/orchid
    python train.py --config configs/orchid.py:digits --workdir runs/orchid_digits
    python train.py --config configs/orchid.py:magnitude_digits --workdir runs/orchid_magnitude_digits
    python train.py --config configs/orchid.py:static_digits --workdir runs/orchid_static_digits
    python train.py --config configs/orchid.py:plain_digits --workdir runs/orchid_plain_digits

Published: 80.2 % on ImageNet-1k of a ViT with 48 M parameters, where attention has 78.5 % with 87 M; these figures are
by summaries of the paper, whose text was not at hand. Not run here. The reference has no training, so `imagenet` is
DeiT's recipe for a ViT of its size S. Its kernels have 33 features of a position, a hidden width of 128, one inner
layer and a frequency of 10, as published for ImageNet.

`digits` has correlations (type II), `magnitude_digits` absolute values (type I), both with the cosine transform;
`static_digits` a kernel that the image does not change, and `plain_digits` attention.
"""

from longview.configs import base

MIXER = {'partial': 'modelzoo.layers.mixers.orchid:Orchid', 'kind': 'correlation', 'transform': 'dct'}
PAPER = MIXER | {'places': 196, 'features': 33, 'hidden': 128, 'inner': 1, 'frequency': 10.0}
BACKBONE = base.backbone('vit_small_patch16_224', fn='modelzoo.vision.vit:vit', plain=True, scan=False)
PLAIN = BACKBONE | {'patch': 2, 'width': 32, 'depth': 3, 'heads': 2}
SMALL = MIXER | {'places': 16, 'hidden': 16}


def mixing(backbone, mixer, **changes):
    return backbone | {'mixer': mixer | changes}


def recipe(backbone, warmup_epochs):
    """DeiT's: the paper's own is not known."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, start=1e-6, end=1e-5, warmup_epochs=warmup_epochs)
    return base.imagenet(backbone, optimizer)


get_config = base.presets(
    imagenet=recipe(mixing(BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}, PAPER), warmup_epochs=5.0),
    digits=base.digits(mixing(PLAIN, SMALL)),
    magnitude_digits=base.digits(mixing(PLAIN, SMALL, kind='magnitude')),
    static_digits=base.digits(mixing(PLAIN, SMALL, kind=None)),
    plain_digits=base.digits(PLAIN),
    fashion_mnist=base.fashion_mnist(mixing(PLAIN | {'patch': 4}, SMALL, places=49)),
    smoke=base.smoke(recipe(mixing(PLAIN | {'patch': 8, 'drop_path': 0.1}, SMALL), warmup_epochs=0.1)),
)
