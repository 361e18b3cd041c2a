"""Trained rank pruning: weights that become their own low-rank approximation every few steps.

TRP: Trained Rank Pruning for Efficient Deep Neural Networks, Xu et al., 2020, https://arxiv.org/abs/2004.14566.

    python train.py --config configs/trp.py:digits --workdir runs/trp_digits
    python train.py --config configs/trp.py:fashion_mnist --workdir runs/trp_fashion
    python train.py --config configs/trp.py:digits --workdir runs/trp_spatial_digits \
        --config.task.scheme=spatial --config.task.pattern='.*stage.*conv2/conv/kernel'

Published: top-1 error of ResNet-20 on CIFAR-10 from 8.26 to 9.5 %, with 2.17 times fewer multiply-adds, by channels.
Not run here. eval/accuracy is that of the decomposed network; train/kept the share of the chosen kernels' parameters
that it has.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'resnet50',
    'drop_path': 0.0,
    'stem_stride': 1,
    'stem_width': 16,
    'depths': (1, 1, 1),
    'widths': (32, 64, 128),
}


def ranked(config, every):
    """`config` with the convolutions after the first one of low rank."""
    task = {
        'fn': 'methods.prune.trained_rank:TrainedRank',
        'inner': config['task'],
        'every': every,
        'energy': 0.9,
        'nuclear_weight': 3e-4,
        'scheme': 'channel',
        'pattern': '.*stage.*kernel',
    }
    return config | {'task': task}


def get_config(preset=None):
    """One small network for each of the small data sets."""

    def digits():
        return ranked(base.digits(BACKBONE, ema=None), 20)

    def fashion_mnist():
        return ranked(base.fashion_mnist(BACKBONE | {'stem_stride': 4}, ema=None), 20)

    return base.select(preset, {'digits': digits, 'fashion_mnist': fashion_mnist})
