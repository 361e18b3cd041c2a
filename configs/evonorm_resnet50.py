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
The small presets of B0 evaluate the weights themselves.
"""

from longview.configs import base

UNCHANGED = {'partial': 'modelzoo.layers.norms.evonorm:unchanged'}
B0 = base.backbone(
    'resnet50',
    norm={'partial': 'modelzoo.layers.norms.evonorm:EvoNormB0'},
    act=UNCHANGED,
    end_norm={'partial': 'modelzoo.layers.norms.evonorm:Affine'},
)
NORM_S0 = {'partial': 'modelzoo.layers.norms.evonorm:EvoNormS0', 'groups': 32}
S0 = base.backbone('resnetv2_50', fn='modelzoo.vision.resnetv2:resnetv2', norm=NORM_S0, act=UNCHANGED)
SMALL = {'stem_stride': 1, 'stem_width': 32, 'depths': (1, 1, 1), 'widths': (64, 128, 256)}
TINY = B0 | {'drop_path': 0.1, 'stem_width': 16, 'depths': (1, 1), 'widths': (32, 64)}


def recipe(backbone, warmup_epochs=5.0):
    """The published run of a network."""
    schedule = base.staircase(0.4, (30.0, 60.0, 80.0), warmup_epochs=warmup_epochs)
    return base.imagenet(backbone, base.sgd(schedule, nesterov=False), epochs=90.0, batch_size=1024, ema=None) | {
        'train_transforms': [base.normalize()]
    }


get_config = base.presets(
    imagenet=recipe(B0 | {'dtype': 'bfloat16'}),
    s0=recipe(S0 | {'dtype': 'bfloat16'}),
    digits=base.digits(B0 | SMALL, ema=None),
    s0_digits=base.digits(S0 | SMALL | {'norm': NORM_S0 | {'groups': 4}}),
    fashion_mnist=base.fashion_mnist(B0 | SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
