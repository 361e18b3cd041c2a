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


get_config = base.presets(
    digits=ranked(base.digits(base.RESNET, ema=None), every=20),
    fashion_mnist=ranked(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None), every=20),
)
