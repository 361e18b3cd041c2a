"""WRN-28-10, the wide residual network for CIFAR.

Wide Residual Networks, Zagoruyko and Komodakis, 2016, https://arxiv.org/abs/1605.07146. Recipe: its section 3 and
https://github.com/szagoruyko/wide-residual-networks (BSD-2-Clause).

    python train.py --config configs/wrn_28_10.py --workdir runs/wrn_28_10
    python train.py --config configs/wrn_28_10.py:digits --workdir runs/wrn_28_10_digits

Published: 36.5 M parameters, 4.00 % error on CIFAR-10 without dropout. Not run here: `cifar10` is TFDS's, which
`python -m longview.data.prepare cifar10` prepares where TensorFlow is installed. 200 epochs of batches of 128, a rate
of 0.1 that is multiplied by 0.2 after 60, 120 and 160 epochs, SGD with a Nesterov momentum of 0.9, a decay of 5e-4 on
every parameter; images padded by 4 pixels, cropped and mirrored. What differs: the padding is black, there a
reflection. The small presets evaluate the weights themselves: the batch statistics are theirs, not those of averaged
weights.
"""

from longview.configs import base

BACKBONE = base.backbone('wrn_28_10_cifar')
SMALL = BACKBONE | {'depths': (1, 1, 1), 'widths': (32, 64, 128)}
TINY = BACKBONE | {'depths': (2, 1), 'widths': (16, 32), 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network."""
    schedule = base.staircase(0.1, (60.0, 120.0, 160.0), factor=0.2)
    optimizer = base.sgd(schedule, weight_decay=5e-4, decay_rules=(('.*', 1.0),))
    return base.cifar10(backbone, optimizer, epochs=200.0, batch_size=128, padding=4)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'widths': (16, 32, 64)}, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
