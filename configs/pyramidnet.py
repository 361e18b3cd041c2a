"""PyramidNet: residual networks whose width grows at every block.

Deep Pyramidal Residual Networks, Han et al., 2016, https://arxiv.org/abs/1610.02915. Recipes:
https://github.com/jhkim89/PyramidNet (the authors', no licence), its README, for CIFAR, and
https://github.com/dyhan0920/PyramidNet-PyTorch (an author's, MIT), its README, for ImageNet.

    python train.py --config configs/pyramidnet.py --workdir runs/pyramidnet
    python train.py --config configs/pyramidnet.py:imagenet --workdir runs/pyramidnet200
    python train.py --config configs/pyramidnet.py:digits --workdir runs/pyramidnet_digits

Published: 110 layers and alpha 48 have 1.7 M parameters and 4.62 % error on CIFAR-10; 200 layers and alpha 300 have
62.1 M and 20.47 % on ImageNet-1k. Not run here. CIFAR-10: 300 epochs of batches of 128, a rate of 0.1 divided by 10
after 150 and 225 epochs, SGD with a Nesterov momentum of 0.9, a decay of 1e-4 on every parameter; images padded by 4
pixels, cropped and mirrored. ImageNet: 100 epochs of batches of 128, a rate of 0.05 divided by 10 every 30 epochs; what
differs there: colours are not jittered. The small presets evaluate the weights themselves: the batch statistics are
theirs, not those of averaged weights.
"""

from longview.configs import base

CIFAR = base.backbone('pyramidnet110_a48_cifar')
IMAGENET = base.backbone('pyramidnet200_a300')
SMALL = CIFAR | {'depths': (1, 1, 1), 'alpha': 48.0}
TINY = CIFAR | {'depths': (2, 1), 'alpha': 12.0, 'drop_path': 0.1}
EVERYTHING = (('.*', 1.0),)


def cifar10(backbone):
    """The published run on CIFAR-10."""
    optimizer = base.sgd(base.staircase(0.1, (150.0, 225.0)), decay_rules=EVERYTHING)
    return base.cifar10(backbone, optimizer, epochs=300.0, batch_size=128, padding=4)


def imagenet(backbone):
    """The published run on ImageNet."""
    optimizer = base.sgd(base.staircase(0.05, (30.0, 60.0, 90.0)), decay_rules=EVERYTHING)
    config = base.imagenet(backbone, optimizer, epochs=100.0, ema=None)
    return config | {'batch_size': 128, 'train_transforms': [base.normalize()]}


get_config = base.presets(
    cifar10=cifar10(CIFAR),
    imagenet=imagenet(IMAGENET | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(cifar10(TINY)),
)
