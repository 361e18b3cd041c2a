"""TiC: convolutions whose pixels attend to those under the kernel, of images of any size.

TiC: Exploring Vision Transformer in Convolution, Zhang et al., 2023, https://arxiv.org/abs/2310.04134.

    python train.py --config configs/tic.py --workdir runs/tic
    python train.py --config configs/tic.py:digits --workdir runs/tic_digits
    python train.py --config configs/tic.py:plain_digits --workdir runs/tic_plain_digits
    python train.py --config configs/tic.py:resnet_digits --workdir runs/tic_resnet_digits
    python -m longview.evaluate runs/tic_digits --config.data.image_size=12

Published: results on ImageNet-1k that were not at hand, and code of the layer alone
(https://github.com/zs670980918/MSA-Conv, no licence file, commit 2d96f54). So the network is ours
(modelzoo/vision/tic.py), and `imagenet`, which was not run here, is DeiT's recipe. bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for full precision).

The small presets have two stages and windows of 3 pixels. `plain_digits` looks into one direction and at the map alone,
with as many parameters; `vit_digits` is a vision transformer of nearly as many, whose table of positions is resized for
images of another size (the last command). `resnet_digits` is a residual network whose 3x3 convolutions are MSA-Conv,
and `plain_resnet_digits` the same network with plain ones.
"""

from longview.configs import base

BACKBONE = base.backbone('tic_tiny', shifted=True, pooled=True)
SMALL = BACKBONE | {'widths': (20, 40), 'depths': (1, 1), 'heads': (5, 10), 'window': 3, 'stem_stride': 1}
PLAIN = SMALL | {'shifted': False, 'pooled': False}
TINY = SMALL | {'stem_stride': 4, 'drop_path': 0.1}
VIT = base.backbone('vit_tiny_patch16_224', image_size=8, patch=2, width=32, depth=2, heads=2)
PLAIN_RESNET = base.RESNET | {'depths': (1, 1), 'widths': (16, 32), 'variant': 'resnet18'}
RESNET = PLAIN_RESNET | {'conv': {'partial': 'modelzoo.layers.attention.msa_conv:MSAConv'}}


def recipe(backbone, **schedule):
    """DeiT's: the paper's own is not known."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, start=1e-6, end=1e-5, **schedule)
    return base.imagenet(backbone, optimizer)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.2, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL, epochs=20.0),
    plain_digits=base.digits(PLAIN, epochs=20.0),
    vit_digits=base.digits(VIT, epochs=20.0),
    resnet_digits=base.digits(RESNET, epochs=20.0),
    plain_resnet_digits=base.digits(PLAIN_RESNET, epochs=20.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'window': 5}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
