"""Early exits: a residual network that easy images leave after the first or the second of its three stages.

BranchyNet: Fast Inference via Early Exiting from Deep Neural Networks, Teerapittayanon et al., 2016,
https://arxiv.org/abs/1709.01686.

    python train.py --config configs/early_exit.py:digits --workdir runs/early_exit_digits
    python train.py --config configs/early_exit.py:fashion_mnist --workdir runs/early_exit_fashion
    python -m benchmarks.early_exit --workdir runs/early_exit_digits

Published: the paper's table 1, for LeNet, AlexNet and a ResNet of 110 layers on MNIST and CIFAR-10. Not run here: the
exits are at the ends of stages, there inside them, and leave by the likelihood of a class; the paper's rule, the
entropy, is `certain` in the place of `confident`, with a threshold in nats. eval/saved is the share of the arithmetic
that is not needed, eval/exit the mean number of the exit taken. The presets evaluate the weights themselves: the batch
statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('resnet110_cifar', depths=(3, 3, 3), widths=(16, 32, 64))


def branched(config):
    """Three exits in place of one."""
    task = {
        'fn': 'methods.exits.confidence:EarlyExit',
        'exits': ('stage0', 'stage1'),
        'weights': (0.5, 0.5, 1.0),
        'threshold': 0.9,
        'leaves': {'partial': 'methods.exits.confidence:confident'},
        'branch': {'partial': 'methods.exits.confidence:Branch', 'num_classes': None, 'widths': (32,)},
    }
    return config | {'task': task | {key: config['task'][key] for key in ('backbone', 'head')}}


get_config = base.presets(
    digits=branched(base.digits(BACKBONE, ema=None)),
    fashion_mnist=branched(base.fashion_mnist(BACKBONE, ema=None)),
)
