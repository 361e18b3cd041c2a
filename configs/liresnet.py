"""LiResNet and EMMA: answers with a certificate that no image near by has another one.

Unlocking Deterministic Robustness Certification on ImageNet, Hu et al., 2023, https://arxiv.org/abs/2301.12549.
Recipe: https://github.com/klasleino/gloro (MIT), snapshots/hu23_snapshot.zip, configs/cifar10.yaml and train.py.

    python train.py --config configs/liresnet.py --workdir runs/liresnet
    python train.py --config configs/liresnet.py:digits --workdir runs/liresnet_digits
    python train.py --config configs/liresnet.py:basic_digits --workdir runs/liresnet_basic_digits

Published: VRA, the share that is right and certified, at a radius of 36/255: CIFAR-10 70.1 %, CIFAR-100 41.5 %,
Tiny-ImageNet 33.6 % with 18 blocks of width 256; ImageNet 35.0 % with 12 of width 588 (README of klasleino/gloro). Not
run here: `cifar10` is TFDS's, which `python -m longview.data.prepare cifar10` prepares where TensorFlow is installed.
AdamW with a rate of 1e-3, a decay of 1e-4 of every parameter, 20 epochs of warm-up, clipped at a norm of 3, batches of
256, 800 epochs; in the first half of them the radius of training grows from 0.1 to 1.5 times that of the certificate.
The recipe's file trains with the margin loss, the paper with EMMA, which is what `cifar10` has.

On digits the radius is 0.3, of pixels from 0 to 1, and the first convolution keeps the image's size, for the published
ones are for larger images. `digits` has EMMA, `margin_digits` and `trades_digits` the other losses, `basic_digits` the
usual residual block with EMMA. What they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = base.backbone('liresnet18_w256_cifar')
SMALL = {'depth': 4, 'width': 32, 'neck_width': 128}
KEEPING = {'stem_kernel': 3, 'stem_stride': 1, 'stem_padding': 1}
BASIC = {'partial': 'modelzoo.layers.lipschitz:BasicResidual'}
UNIT = [base.normalize((0.0,), (1.0,))]


def certified(config, *, radius, ramp, criterion='emma'):
    """The task of a config becomes certified training; images are pixels from 0 to 1."""
    task = {
        'fn': 'methods.robust.gloro:Gloro',
        'backbone': config['task']['backbone'],
        'head': {'fn': 'modelzoo.heads.unit:UnitLinear', 'num_classes': None},
        'radius': radius,
        'criterion': {'partial': f'methods.robust.gloro:{criterion}_loss'},
        'first': 0.1,
        'last': 1.5,
        'ramp': ramp,
        'iterations': 10,
        'eval_iterations': 500,
    }
    return config | {'task': task, 'train_transforms': UNIT, 'eval_transforms': UNIT, 'best': 'eval/vra'}


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.adamw(
        peak=1e-3, warmup_epochs=20, end=1e-8, weight_decay=1e-4, clip_norm=3.0, decay_rules=(('.*', 1.0),)
    )
    config = base.cifar10(backbone, optimizer, epochs=800.0, batch_size=256, padding=4)
    return certified(config, radius=36 / 255, ramp=400.0)


def digits(criterion='emma', **fields):
    """A small network, trained with the digits' recipe."""
    backbone = BACKBONE | SMALL | KEEPING | fields
    return certified(base.digits(backbone, ema=None), radius=0.3, ramp=15.0, criterion=criterion)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=digits(),
    margin_digits=digits('margin'),
    trades_digits=digits('trades'),
    basic_digits=digits(block=BASIC),
    fashion_mnist=certified(base.fashion_mnist(BACKBONE | SMALL, ema=None), radius=0.3, ramp=7.5),
    smoke=base.smoke(recipe(BACKBONE | {'depth': 2, 'width': 16})),
)
