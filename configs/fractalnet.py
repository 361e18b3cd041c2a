"""FractalNet: columns of different depth joined by their mean, without residuals.

FractalNet: Ultra-Deep Neural Networks without Residuals, Larsson et al., 2016, https://arxiv.org/abs/1605.07648.
Recipe: the paper; https://github.com/gustavla/fractalnet (the authors', BSD-2-Clause), generation/; and
https://github.com/khanrc/pt.fractalnet (no licence), config.py.

    python train.py --config configs/fractalnet.py --workdir runs/fractalnet
    python train.py --config configs/fractalnet.py:digits --workdir runs/fractalnet_digits
    python evaluate.py runs/fractalnet_digits --config.task.backbone.column=0

The last command evaluates the shallowest column alone, the quick answer; 2 is the deepest.

Published: 4.60 % error on CIFAR-10 with images padded by 4 pixels, cropped and mirrored, 4.68 % by the deepest column
alone; the second repository found 6.44 and 7.19 %. Not run here. 400 epochs of batches of 100, SGD with a momentum of
0.9 and no decay, a rate of 0.02 divided by 10 whenever half of the epochs that were left are over; a join drops an
input with probability 0.15, one column alone answers half of the examples, and dropout rises from 0 in the first block
to 0.4 in the last. The small presets evaluate the weights themselves: the batch statistics are theirs, not those of
averaged weights.
"""

from longview.configs import base

CIFAR = base.backbone('fractalnet20_cifar', drop_path=0.15, global_drop=0.5, dropout=0.4, column=base.unset(int))
SMALL = CIFAR | {'widths': (16, 32, 64), 'dropout': 0.1}
TINY = CIFAR | {'widths': (8, 16)}


def recipe(backbone):
    """The published run on CIFAR-10."""
    schedule = base.staircase(0.02, (200.0, 300.0, 350.0, 375.0))
    optimizer = base.sgd(schedule, nesterov=False, weight_decay=0.0)
    return base.cifar10(backbone, optimizer, epochs=400.0, batch_size=100, padding=4)


get_config = base.presets(
    cifar10=recipe(CIFAR),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
