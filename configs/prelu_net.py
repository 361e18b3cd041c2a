"""PReLU nets: rectifiers that learn the slope of their negative side, from initial values made for rectifiers.

Delving Deep into Rectifiers: Surpassing Human-Level Performance on ImageNet Classification, He et al., 2015,
https://arxiv.org/abs/1502.01852. The paper's recipe as it is remembered, for its code is not published: batches of 128,
SGD with a momentum of 0.9, a decay of 5e-4 on kernels only, rates of 1e-2, 1e-3 and 1e-4, each until the error stays,
80 epochs in all; dropout of half of the hidden layers.

    python train.py --config configs/prelu_net.py --workdir runs/prelu_net_a
    python train.py --config configs/prelu_net.py:digits --workdir runs/prelu_digits
    python train.py --config configs/prelu_net.py:plain_digits --workdir runs/relu_digits
    python train.py --config configs/prelu_net.py:deep_digits --workdir runs/deep_relu_digits
    python train.py --config configs/prelu_net.py:linear_digits --workdir runs/deep_relu_linear_digits

Published: 4.94 % top-5 error on ImageNet-1k, of several networks together; with PReLU in the place of ReLU a network of
14 layers has 1.2 % less top-1 error, and one of 30 layers learns from these initial values and not from Xavier's. Not
run here. What differs: the rate falls after 30 and 60 epochs; crops are those of configs/base.py, not of shorter sides
between 256 and 512, and colours are left as they are.

`digits` is a network of nine convolutions with PReLU, `plain_digits` the same with ReLU, each with the initial values
for its slope. `deep_digits` has 28 convolutions with ReLU, and `linear_digits` the same from the initial values of
linear layers, a gain of 1. What they reach: docs/results.md.
"""

from longview.configs import base

RELU = {'partial': 'jax.nn:relu'}
BACKBONE = base.backbone('prelu_net_a')
SMALL = BACKBONE | {
    'stem_stride': 1,
    'stem_width': 16,
    'depths': (4, 4),
    'widths': (32, 64),
    'levels': (2, 1),
    'hidden': 64,
    'dropout': 0.0,
}
DEEP = SMALL | {'depths': (9, 9, 9), 'stem_width': 16, 'widths': (16, 16, 16), 'levels': (1,)}
TINY = SMALL | {'stem_stride': 4, 'depths': (1, 1), 'widths': (16, 32), 'dropout': 0.5}


def started(slope):
    """Initial values for rectifiers of this slope."""
    return {'fn': 'modelzoo.layers.frame.init:rectifier', 'slope': slope, 'mode': 'fan_in'}


def plain(backbone, slope=0.0):
    """ReLU in the place of PReLU."""
    return backbone | {'act': RELU, 'kernel_init': started(slope)}


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.sgd(base.staircase(1e-2, (30.0, 60.0)), nesterov=False, weight_decay=5e-4)
    return base.imagenet(backbone, optimizer, epochs=80.0, batch_size=128, ema=None) | {
        'train_transforms': [base.normalize()]
    }


get_config = base.presets(
    imagenet=recipe(BACKBONE),
    digits=base.digits(SMALL, peak=1e-3, ema=None),
    plain_digits=base.digits(plain(SMALL), peak=1e-3, ema=None),
    deep_digits=base.digits(plain(DEEP), peak=1e-3, ema=None),
    linear_digits=base.digits(plain(DEEP, slope=1.0), peak=1e-3, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, peak=1e-3, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
