"""Semantic segmentation of digits on a canvas: which pixels are ink, and of which digit.

Fully Convolutional Networks for Semantic Segmentation, Long et al., 2015, https://arxiv.org/abs/1411.4038, with the
decoder of SegFormer, Xie et al., 2021, https://arxiv.org/abs/2105.15203, on a small residual network.

    python train.py --config configs/segment.py:digits --workdir runs/segment_digits
    python train.py --config configs/segment.py:digits_pixels --workdir runs/segment_pixels

`digits_pixels` is what a network has to beat: the same run of a linear classifier of single pixels.

Published: 50.3 % mean IoU of SegFormer-B4 on ADE20K. Not run here: neither data set nor encoder are the paper's.
eval/mean_iou is over the ten digits and the background. Of the canvases, 24 x 24 pixels with one to five digits of 8 x
8 and up to four quarters of other digits that are background, 6,000 are for training and 400, made of other digits, for
evaluation (data/canvas.py).
"""

from longview.configs import base

BACKBONE = base.RESNET | {'depths': (1, 3, 2)}
DECODER = {'fn': 'modelzoo.heads.segment:MlpDecoder', 'num_classes': None, 'width': 32}


def canvases(split, examples, seed):
    return {
        'partial': 'data.canvas:digits',
        'split': split,
        'examples': examples,
        'size': 24,
        'most': 5,
        'noise': 16.0,
        'seed': seed,
    }


def digits(backbone, head):
    """The run of a backbone and a head on canvases with digits."""
    data = {
        'fn': 'input_pipeline:Arrays',
        'train_split': canvases('train', 6000, 0),
        'eval_split': canvases('test', 400, 1),
        'num_classes': 11,
    }
    task = {'fn': 'methods.dense.segment:Segment', 'backbone': backbone, 'head': head, 'ignore': base.unset(int)}
    # About a mean of 0 and a deviation of 1.
    transforms = [base.normalize((0.090,), (0.198,))]
    return base.run(
        task,
        data,
        base.adamw(peak=3e-3, warmup_epochs=1, end=3e-5, clip_norm=1.0),
        epochs=9.0,
        batch_size=32,
        eval_batch_size=100,
        eval_every=250,
        best='eval/mean_iou',
        train_transforms=transforms,
        eval_transforms=transforms,
    )


get_config = base.presets(
    digits=digits(BACKBONE, DECODER),
    digits_pixels=digits(
        {'fn': 'modelzoo.pixels:Pixels'}, {'fn': 'modelzoo.heads.segment:PixelLinear', 'num_classes': None}
    ),
)
