"""Detection of digits on a canvas: where each is, how large, and which one.

FCOS: Fully Convolutional One-Stage Object Detection, Tian et al., 2019, https://arxiv.org/abs/1904.01355, on a small
residual network.

    python train.py --config configs/detect.py:digits --workdir runs/detect_digits
    python train.py --config configs/detect.py:digits_one_scale --workdir runs/detect_one_scale

`digits_one_scale` has the same backbone and head on its last stage alone, and so no feature pyramid.

Published: 44.7 % average precision on COCO's test-dev with ResNeXt-101. Not run here: the data set is not. eval/ap and
eval/ap50 are COCO's average precision and that at an IoU of 0.5. Of the canvases, 32 x 32 pixels with one to four
digits of 8 x 8 to 16 x 16 and up to four quarters of other digits that are background, 6,000 are for training and 400,
made of other digits, for evaluation (data/canvas.py).
"""

from longview.configs import base

BACKBONE = base.RESNET | {'depths': (1, 2, 2)}


def canvases(split, examples, seed):
    return {
        'partial': 'data.canvas:digits',
        'split': split,
        'examples': examples,
        'size': 32,
        'noise': 16.0,
        'sides': (8, 16),
        'seed': seed,
    }


def digits(stages):
    """The run of a head that reads some stages, which have the strides 1, 2 and 4."""
    data = {
        'fn': 'input_pipeline:Arrays',
        'train_split': canvases('train', 6000, 0),
        'eval_split': canvases('test', 400, 1),
        'num_classes': 10,
    }
    head = {'fn': 'modelzoo.heads.detect:Fcos', 'num_classes': None, 'stages': stages}
    task = {
        'fn': 'methods.dense.detect:Detect',
        'backbone': BACKBONE,
        'head': head | {'width': 32, 'convs': 2, 'groups': 4},
        'reach': 3.0,
        'detections': 20,
    }
    # A pixel's mean and deviation over the training canvases.
    transforms = [base.normalize((0.128,), (0.240,))]
    return base.run(
        task,
        data,
        base.adamw(peak=3e-3, warmup_epochs=1, end=3e-5, clip_norm=5.0),
        epochs=4.0,
        batch_size=32,
        eval_batch_size=100,
        eval_every=250,
        best='eval/ap50',
        train_transforms=transforms,
        eval_transforms=transforms,
    )


get_config = base.presets(digits=digits((1, 2)), digits_one_scale=digits((2,)))
