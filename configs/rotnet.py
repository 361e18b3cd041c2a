"""RotNet: features from predicting rotations, judged by a linear probe that learns along.

Unsupervised Representation Learning by Predicting Image Rotations, Gidaris et al., 2018,
https://arxiv.org/abs/1803.07728.

    python train.py --config configs/rotnet.py:digits --workdir runs/rotnet_digits
    python train.py --config configs/rotnet.py:fashion_mnist --workdir runs/rotnet_fashion

Published: 72.97 % mAP on PASCAL VOC 2007 classification with an AlexNet pre-trained on ImageNet. Not run here.
eval/accuracy is that of rotations, eval/probe_accuracy that of digits.
"""

from longview.configs import base


def rotated(config):
    """The objective in place of the labels, and the probe on top."""
    turns = base.linear(num_classes=4)
    inner = {'fn': 'methods.ssl.rotation:RotNet', 'backbone': config['task']['backbone'], 'head': turns}
    task = {'fn': 'methods.evaluate.linear_probe:LinearProbe', 'inner': inner, 'head': base.linear()}
    return config | {'task': task, 'best': 'eval/probe_accuracy'}


get_config = base.presets(
    digits=rotated(base.digits(base.RESNET, ema=None)),
    fashion_mnist=rotated(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None)),
)
