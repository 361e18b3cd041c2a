"""ConvFirst: residual blocks that begin with their convolution, each of which can be one kernel.

On the Efficiency of Convolutional Neural Networks, Lavin, 2024, https://arxiv.org/abs/2404.03617. Blocks:
https://github.com/andravin/spio (Apache-2.0), scripts/profile_block.py.

    python train.py --config configs/convfirst.py --workdir runs/convfirst
    python train.py --config configs/convfirst.py:digits --workdir runs/convfirst_digits
    python train.py --config configs/convfirst.py:plain_digits --workdir runs/convnext_blocks_digits
    python evaluate.py runs/convfirst_digits --config.task.backbone.fused=True

Published: about four times as fast as ConvNeXt with kernels for whole blocks, on a GPU. Not run here. Neither the sizes
of the network nor its training are published: `imagenet` has sizes of ours and ConvNeXt's recipe without averaged
weights; bfloat16 with float32 parameters. `digits` has two stages,
`plain_digits` ConvNeXt's blocks at about as many multiply-adds (2.29 million for 2.19), and `mbconv_digits` blocks that
expand first (2.34). All are evaluated layer by layer while they train; the last command evaluates with each block as
one op, which moved neither the accuracy nor the loss of the first seed. Three seeds of `digits`: 99.16, 99.16 and
99.44 %; of `plain_digits` 98.33, 98.33 and 98.61; of `mbconv_digits` 99.72, 98.89 and 98.89. All have the rate that
every config here has on digits; none was selected.
"""

from longview.configs import base

BACKBONE = base.backbone('convfirst_ours', fused=False)
SMALL = BACKBONE | {'widths': (32, 64), 'depths': (2, 2), 'stem_stride': 1}
MBCONV = {'block': {'partial': 'modelzoo.vision.convfirst:MBConv'}, 'widths': (24, 48)}
# Without LayerScale, whose branches start at a millionth: too little for so few steps.
CONVNEXT = base.backbone(
    'convnext_tiny',
    widths=(32, 64),
    depths=(2, 2),
    kernel_size=3,
    patch=1,
    residual={'partial': 'modelzoo.layers.residuals.residual:Add'},
)
TINY = SMALL | {'widths': (8, 16), 'depths': (1, 2), 'drop_path': 0.1, 'stem_stride': 4}


def recipe(backbone, **schedule):
    """ConvNeXt's."""
    optimizer = base.adamw(peak=4e-3, weight_decay=0.05, **schedule)
    return base.imagenet(backbone, optimizer, batch_size=4096, ema=None)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}, end=1e-6, warmup_epochs=20.0),
    digits=base.digits(SMALL, ema=None),
    plain_digits=base.digits(CONVNEXT, ema=None),
    mbconv_digits=base.digits(SMALL | MBCONV, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4, 'depths': (1, 2)}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
