"""Weight conditioning: a vision transformer, and a ResNet without norms, whose kernels have rows of length 1.

Weight Conditioning for Smooth Optimization of Neural Networks, Saratchandran et al., 2024,
https://arxiv.org/abs/2409.03424. Recipe of ImageNet: configs/vit_s16.py, of Beyer et al., 2022,
https://arxiv.org/abs/2205.01580.

    python train.py --config configs/weight_conditioning.py --workdir runs/weight_conditioning
    python train.py --config configs/weight_conditioning.py:digits --workdir runs/weight_conditioning_digits
    python train.py --config configs/weight_conditioning.py:plain_digits --workdir runs/unconditioned_digits
    python train.py --config configs/weight_conditioning.py:weight_norm_digits --workdir runs/weight_norm_digits

Published: the paper's tables for convolutional networks, vision transformers and radiance fields; there is no code,
and its recipes were not at hand. ImageNet was not run here. All kernels but the head's are conditioned.
`weight_norm_digits` gives each row a trained length as well, `plain_digits` has neither, all else equal; `conv_digits`,
`plain_conv_digits` and `weight_norm_conv_digits` are the same three for a ResNet whose norms are scales and biases.
Runs are shorter than those of other configs, for what is claimed is speed; --config.task.measured=True logs the mean
condition number of the kernels before and after. What they reach: docs/results.md.
"""

from longview.configs import base

VIT = base.backbone('vit_small_patch16_224', fn='modelzoo.vision.vit:vit', plain=True, scan=False)
SMALL = VIT | {'patch': 2, 'width': 48, 'depth': 3, 'heads': 2}
TINY = VIT | {'patch': 8, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}
CONV = base.RESNET | {'widths': (16, 32, 64), 'norm': {'partial': 'modelzoo.layers.norms.evonorm:Affine'}}


def conditioned(config, gain=False):
    """`config` with conditioned kernels; with `gain`, weight normalization."""
    task = {
        'fn': 'methods.conditioning:Conditioned',
        'inner': config['task'],
        'pattern': 'backbone/.*kernel',
        'gain': gain,
        'measured': False,
    }
    return config | {'task': task}


def recipe(backbone, warmup_epochs):
    """The run on ImageNet."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    config = base.imagenet(backbone, optimizer, epochs=90.0, ema=None) | transforms
    return conditioned(config)


def digits(backbone):
    """Two thirds of the usual epochs on the digits, without averaged weights."""
    return base.digits(backbone, epochs=20.0, ema=None)


get_config = base.presets(
    imagenet=recipe(VIT | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=conditioned(digits(SMALL)),
    plain_digits=digits(SMALL),
    weight_norm_digits=conditioned(digits(SMALL), gain=True),
    conv_digits=conditioned(digits(CONV)),
    plain_conv_digits=digits(CONV),
    weight_norm_conv_digits=conditioned(digits(CONV), gain=True),
    fashion_mnist=conditioned(base.fashion_mnist(SMALL | {'patch': 4}, ema=None)),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
