"""Segmentation of digits on a canvas, with maps that are rescaled by channel and by pixel (scSE).

Recalibrating Fully Convolutional Networks with Spatial and Channel 'Squeeze & Excitation' Blocks, Roy et al., 2018,
https://arxiv.org/abs/1808.08127.

    python train.py --config configs/scse.py:digits --workdir runs/scse_digits
    python train.py --config configs/scse.py:plain_digits --workdir runs/scse_plain_digits
    python train.py --config configs/scse.py:channel_digits --workdir runs/cse_digits

Published: 4 to 9 % more Dice for U-Net on scans of brains and organs, with 1.5 % more parameters. Not run here: neither
data nor networks are the paper's. `digits` has scSE at the end of each branch of a small residual network and on the
fused map of SegFormer's decoder, `channel_digits` and `spatial_digits` have cSE and sSE there, `plain_digits` nothing.
The canvases are those of configs/segment.py, but of 16 x 16 pixels with one or two digits and no clutter, and a quarter
as many. What they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = base.RESNET | {'widths': (16, 32, 64)}
DECODER = {'fn': 'modelzoo.heads.segment:MlpDecoder', 'num_classes': None, 'width': 32}
CHANNEL = {'partial': 'modelzoo.layers.convolutions.squeeze_excite:SqueezeExcite', 'ratio': 0.5, 'multiple_of': 1}
SPATIAL = {'partial': 'modelzoo.layers.convolutions.scse:SpatialSqueeze'}
BOTH = {'partial': 'modelzoo.layers.convolutions.scse:ConcurrentSqueeze', 'merge': 'max'}


def canvases(split, examples, seed):
    return {
        'partial': 'data.canvas:digits',
        'split': split,
        'examples': examples,
        'size': 16,
        'most': 2,
        'clutter': 0,
        'noise': 16.0,
        'seed': seed,
    }


def digits(attention=None):
    """The run of a network whose maps are rescaled by `attention`."""
    data = {
        'fn': 'input_pipeline:Arrays',
        'train_split': canvases('train', 1500, 0),
        'eval_split': canvases('test', 400, 1),
        'num_classes': 11,
    }
    block = {'partial': 'modelzoo.vision.resnet:Bottleneck', 'attention': attention}
    task = {
        'fn': 'methods.dense.segment:Segment',
        'backbone': BACKBONE | {'block': block},
        'head': DECODER | {'attention': attention},
        'ignore': base.unset(int),
    }
    transforms = [base.normalize((0.090,), (0.198,))]  # about a mean of 0 and a deviation of 1
    return base.run(
        task,
        data,
        base.adamw(peak=1e-2, warmup_epochs=1, end=1e-4, clip_norm=1.0),
        epochs=12.0,
        batch_size=16,
        eval_batch_size=100,
        best='eval/mean_iou',
        train_transforms=transforms,
        eval_transforms=transforms,
    )


get_config = base.presets(
    digits=digits(BOTH),
    channel_digits=digits(CHANNEL),
    spatial_digits=digits(SPATIAL),
    plain_digits=digits(),
)
