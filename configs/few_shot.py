"""Few-shot regression: self-supervised features judged by a few labelled examples of each class.

An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale, Dosovitskiy et al., 2021,
https://arxiv.org/abs/2010.11929, section 4.1, for the measure; Unsupervised Representation Learning by Predicting Image
Rotations, Gidaris et al., 2018, https://arxiv.org/abs/1803.07728, for the features.

    python train.py --config configs/few_shot.py:digits --workdir runs/few_shot_digits
    python train.py --config configs/few_shot.py:fashion_mnist --workdir runs/few_shot_fashion

Published: no figure for these features. eval/shot5_accuracy is that with five examples of each class, from the newest
images of training; eval/accuracy is that of rotations.
"""

from longview.configs import base


def judged(config):
    """`config` with rotations in place of the labels, and the regression on top."""
    inner = {
        'fn': 'methods.ssl.rotation:RotNet',
        'backbone': config['task']['backbone'],
        'head': base.linear(num_classes=4),
    }
    task = {
        'fn': 'methods.evaluate.few_shot:FewShot',
        'inner': inner,
        'num_classes': None,
        'bank': 1024,
        'shots': (1, 5, 10, 25),
        'strengths': (1.0, 32.0, 1024.0, 32768.0),
    }
    return config | {'task': task, 'best': 'eval/shot5_accuracy'}


get_config = base.presets(
    digits=judged(base.digits(base.RESNET, ema=None)),
    fashion_mnist=judged(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None)),
)
