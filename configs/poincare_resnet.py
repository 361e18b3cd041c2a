"""Poincaré ResNet-20: a residual network all of whose layers are of hyperbolic space.

Poincaré ResNet, van Spengler et al., 2023, https://arxiv.org/abs/2303.14027. Recipe:
https://github.com/maxvanspengler/poincare-resnet (Apache-2.0), commit fbbbbf8, train.py and models/optimizers.py.

    python train.py --config configs/poincare_resnet.py --workdir runs/poincare_resnet
    python train.py --config configs/poincare_resnet.py:digits --workdir runs/poincare_digits
    python train.py --config configs/poincare_resnet.py:published_digits --workdir runs/poincare_published_digits
    python train.py --config configs/poincare_resnet.py:euclidean_digits --workdir runs/euclidean_digits

Published: a comparison on CIFAR with Euclidean ResNets of the same size, whose figures were not at hand. Not run here.
500 epochs of batches of 128 at a constant rate of 1e-3, SGD with a momentum of 0.9 and a decay of 1e-4 of all
parameters, images padded by 4 pixels, cropped and flipped. The published optimizers are Riemannian; as all parameters
are of flat spaces (orientations, distances, tangents at the origin), they are the plain ones. Numbers of the ball are
in float32.

The small presets have blocks of 8, 16 and 32 channels, one each; `published_digits` computes what the published code
does, and `euclidean_digits` is a ResNet of the same blocks.
"""

from longview.configs import base

BACKBONE = base.backbone('poincare_resnet20_cifar', published=False)
HEAD = {'fn': 'modelzoo.vision.poincare_resnet:PoincareLinear', 'num_classes': None, 'published': False}
SMALL = BACKBONE | {'depths': (1, 1, 1)}
TINY = BACKBONE | {'widths': (8, 16), 'depths': (1, 1), 'drop_path': 0.1}
EUCLIDEAN = base.backbone('resnet18', stem_stride=1, stem_width=8, depths=(1, 1, 1), widths=(8, 16, 32))


def hyperbolic(config, published=False):
    """`config` with a hyperbolic head."""
    task = config['task'].get('inner', config['task'])
    task['head'] = HEAD | {'published': published}
    task['backbone']['published'] = published
    return config


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.sgd(base.staircase(1e-3, ()), nesterov=False, decay_rules=(('.', 1.0),))
    return hyperbolic(base.cifar10(backbone, optimizer, epochs=500.0, batch_size=128, padding=4))


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=hyperbolic(base.digits(SMALL, ema=None)),
    published_digits=hyperbolic(base.digits(SMALL.copy(), ema=None), published=True),
    euclidean_digits=base.digits(EUCLIDEAN, ema=None),
    fashion_mnist=hyperbolic(base.fashion_mnist(SMALL.copy(), ema=None)),
    smoke=base.smoke(recipe(TINY)),
)
