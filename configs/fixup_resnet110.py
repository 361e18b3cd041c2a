"""Fixup ResNet-110: 110 layers for CIFAR-10 without any normalization.

Fixup Initialization: Residual Learning Without Normalization, Zhang et al., 2019, https://arxiv.org/abs/1901.09321.
Recipe: https://github.com/hongyi-zhang/Fixup (BSD-3-Clause), cifar/cifar_train.py.

    python train.py --config configs/fixup_resnet110.py --workdir runs/fixup_resnet110
    python train.py --config configs/fixup_resnet110.py:digits --workdir runs/fixup_digits
    python train.py --config configs/fixup_resnet110.py:plain_digits --workdir runs/plain_resnet_digits

Published: table 1 of the paper; the repository says no accuracy. Not run here: `cifar10` is TFDS's, which
`python -m longview.data.prepare cifar10` prepares where TensorFlow is installed. 200 epochs of batches of 128, a rate
of 0.1 divided by 10 after 100 and 150 epochs, a tenth of it for single numbers, a decay of 1e-4 on every parameter,
mixup of 1; images padded by 4 pixels, cropped and mirrored. `digits` is the network of 110 layers with 4, 8 and 16
channels, trained by AdamW, under which single numbers learn at the full rate; `plain_digits` is that of the ResNet
paper, of the same size, without its norms. What they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = base.backbone('fixup_resnet110', scan=False)
PLAIN = base.backbone('resnet110_cifar', norm={'partial': 'modelzoo.layers.norms.norm:NoNorm'})
NARROW = {'widths': (4, 8, 16), 'stem_width': 4}
TINY = BACKBONE | {'depths': (2, 1), 'widths': (16, 32), 'drop_path': 0.1}
NUMBERS = '(before|scale|after|after1/bias|before2/bias|after_stem/bias|pool/bias)$'
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def from_zero(config):
    """The head starts at 0."""
    config['task']['head']['kernel_init'] = {'partial': 'jax.nn.initializers:zeros'}
    return config


def recipe(backbone):
    """The published run of a network."""
    rules = {'decay_rules': (('.*', 1.0),), 'rate_rules': ((NUMBERS, 0.1),)}
    optimizer = base.sgd(base.staircase(0.1, (100.0, 150.0)), nesterov=False, weight_decay=1e-4, **rules)
    normalize = base.normalize(MEAN, STD)
    return from_zero(base.cifar10(backbone, optimizer, epochs=200.0, batch_size=128, padding=4)) | {
        'train_transforms': [normalize, base.mixup(alpha=1.0)],
        'eval_transforms': [normalize],
    }


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=from_zero(base.digits(BACKBONE | NARROW | {'scan': True}, epochs=60.0, ema=None)),
    plain_digits=base.digits(PLAIN | NARROW, epochs=60.0, ema=None),
    fashion_mnist=from_zero(base.fashion_mnist(BACKBONE | {'depths': (3, 3, 3)}, ema=None)),
    smoke=base.smoke(recipe(TINY)),
)
