"""ResNet-50 whose norms and rectifiers are one layer, EvoNorm-B0.

Evolving Normalization-Activation Layers, Liu et al., 2020, https://arxiv.org/abs/2004.02967. Recipe: the authors' code,
https://github.com/tensorflow/tpu (Apache-2.0), models/official/resnet, with its default configuration.

    python train.py --config configs/evonorm_resnet50.py --workdir runs/evonorm_resnet50
    python train.py --config configs/evonorm_resnet50.py:digits --workdir runs/evonorm_digits
    python train.py --config configs/evonorm_resnet50.py:s0_digits --workdir runs/evonorm_s0_digits

Published: the paper's tables; the repository says no accuracy for it. Not run here. 90 epochs of batches of 1,024, five
epochs of warm-up to a rate of 0.4 that is divided by ten after 30, 60 and 80 epochs, SGD with a momentum of 0.9, a
decay of 1e-4 on kernels only; bfloat16 with float32 parameters. Rectifiers after the sums stay, and the norms at the
end of branches and on shortcuts are affine layers. What differs: crops as configs/base.py makes them. `s0` and
`s0_digits` have EvoNorm-S0, which does not look at the batch, in ResNetV2, where no affine layer is left over.
Like all small presets of networks with batch statistics, those of B0 evaluate the weights themselves.
"""

from longview.configs import base

UNCHANGED = {'partial': 'modelzoo.layers.norms.evonorm:unchanged'}
B0 = {
    'fn': 'modelzoo:backbone',
    'variant': 'resnet50',
    'norm': {'partial': 'modelzoo.layers.norms.evonorm:EvoNormB0'},
    'act': UNCHANGED,
    'end_norm': {'partial': 'modelzoo.layers.norms.evonorm:Affine'},
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
}
S0 = {
    'fn': 'modelzoo.vision.resnetv2:resnetv2',
    'variant': 'resnetv2_50',
    'norm': {'partial': 'modelzoo.layers.norms.evonorm:EvoNormS0', 'groups': 32},
    'act': UNCHANGED,
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
}
SMALL = {'stem_stride': 1, 'stem_width': 32, 'depths': (1, 1, 1), 'widths': (64, 128, 256)}


def recipe(backbone, warmup_epochs=5.0):
    """The published run of a network."""
    schedule = base.staircase(0.4, (30.0, 60.0, 80.0), warmup_epochs=warmup_epochs)
    return base.imagenet(backbone, base.sgd(schedule, nesterov=False), epochs=90.0, batch_size=1024, ema=None) | {
        'train_transforms': [base.normalize()]
    }


def small_s0():
    """S0 in groups of 4 channels and more."""
    return S0 | SMALL | {'norm': S0['norm'] | {'groups': 4}}


def get_config(preset=None):
    """The presets are those of configs/base.py, with `s0` and `s0_digits`."""

    def imagenet():
        return recipe(B0 | {'dtype': 'bfloat16'})

    def s0():
        return recipe(S0 | {'dtype': 'bfloat16'})

    def digits():
        return base.digits(B0 | SMALL, ema=None)

    def s0_digits():
        return base.digits(small_s0())

    def fashion_mnist():
        return base.fashion_mnist(B0 | SMALL | {'stem_stride': 4}, ema=None)

    def smoke():
        shrunk = B0 | {'drop_path': 0.1, 'stem_width': 16, 'depths': (1, 1), 'widths': (32, 64)}
        return base.smoke(recipe(shrunk, 0.1), image_size=32)

    return base.select(
        preset,
        {
            'imagenet': imagenet,
            's0': s0,
            'digits': digits,
            's0_digits': s0_digits,
            'fashion_mnist': fashion_mnist,
            'smoke': smoke,
        },
    )
