"""ResNet-18 whose 3x3 convolutions take a slice of a 3x3x3 kernel, turned for each image, and serve volumes too.

Cross-D Conv: Cross-Dimensional Transferable Knowledge Base via Fourier Shifting Operation, Yavuz and Yang, 2024,
https://arxiv.org/abs/2411.02441. Recipe: https://github.com/convergedmachine/Cross-D-Conv (MIT), README.md and
get_args_parser.py.

    python train.py --config configs/cross_d.py --workdir runs/cross_d
    python train.py --config configs/cross_d.py:digits --workdir runs/cross_d_digits
    python train.py --config configs/cross_d.py:plain_digits --workdir runs/plain_cross_d_digits

Published: comparable or better features than plain convolutions on RadImageNet (images) and on volumes; no figure was
read. Not run here, for RadImageNet is not public: `imagenet` is its recipe on ImageNet-1k. 90 epochs of batches of 512
(16 devices with 32 images each), AdamW with a decay of 1e-4, a rate of 1e-3 that is divided by ten after 30 and 60
epochs, crops and flips, there by bilinear sampling and here by bicubic; bfloat16 with float32 parameters. The stem and
the 1x1 convolutions stay plain. `plain_digits` is `digits` with plain convolutions, a third of whose weights it has.
What they reach: docs/results.md.
"""

from longview.configs import base

CROSS_D = {'partial': 'modelzoo.layers.convolutions.cross_d:CrossDConv'}
BACKBONE = base.backbone('resnet18', conv=CROSS_D)
PLAIN = base.backbone('resnet18', stem_stride=1, stem_width=16, depths=(1, 1), widths=(16, 32))
SMALL = PLAIN | {'conv': CROSS_D}
TINY = SMALL | {'stem_stride': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=0.0, weight_decay=1e-4)
    optimizer |= {'schedule': base.staircase(1e-3, (30.0, 60.0), **schedule)}
    run = base.imagenet(backbone, optimizer, epochs=90.0, batch_size=512, ema=None)
    return run | {'train_transforms': [base.normalize()]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    plain_digits=base.digits(PLAIN, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
