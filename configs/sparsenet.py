"""SparseNet: each layer reads the outputs 1, 2, 4, 8, ... layers back.

Sparsely Aggregated Convolutional Networks, Zhu et al., 2018, https://arxiv.org/abs/1801.05895. Recipe:
https://github.com/Lyken17/SparseNet (the authors', MIT), src/main.py.

    python train.py --config configs/sparsenet.py --workdir runs/sparsenet
    python train.py --config configs/sparsenet.py:digits --workdir runs/sparsenet_digits

Published: 40 layers of 24 channels have 24.65 % error on CIFAR-100; 0.76 M parameters are printed, the authors' code
and ours have 0.74 M. Not run here. 300 epochs of batches of 64, a rate of 0.1 divided by 10 after 150 and 225 epochs,
SGD with a Nesterov momentum of 0.9, a decay of 1e-4 on kernels; images padded by 4 pixels, cropped and mirrored. What
differs: a mean for each channel is subtracted instead of one for each pixel, and channels are divided by their
deviation. The small presets evaluate the weights themselves: the batch statistics are theirs, not those of
averaged weights.
"""

from longview.configs import base

CIFAR = base.backbone('sparsenet40_k24_cifar')
SMALL = CIFAR | {'depths': (5, 5, 5), 'growth': (16, 16, 32), 'stem_width': 16}
TINY = CIFAR | {'depths': (3, 2), 'growth': (8, 16), 'stem_width': 8, 'drop_path': 0.1}


def recipe(backbone):
    """The published run on CIFAR, here with ten classes."""
    optimizer = base.sgd(base.staircase(0.1, (150.0, 225.0)))
    return base.cifar10(backbone, optimizer, epochs=300.0, batch_size=64, padding=4)


get_config = base.presets(
    cifar10=recipe(CIFAR),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
