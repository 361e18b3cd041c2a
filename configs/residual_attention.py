"""Residual Attention Network: residual units whose maps are scaled by masks.

Residual Attention Network for Image Classification, Wang et al., 2017, https://arxiv.org/abs/1704.06904. Recipes:
https://github.com/tengshaofeng/ResidualAttentionNetwork-pytorch (another's, no licence), train.py, for CIFAR; the
paper for ImageNet.

    python train.py --config configs/residual_attention.py --workdir runs/residual_attention
    python train.py --config configs/residual_attention.py:imagenet --workdir runs/residual_attention56
    python train.py --config configs/residual_attention.py:digits --workdir runs/residual_attention_digits

Published: the network for CIFAR has 4.6 % error on CIFAR-10 there (the paper, with another one, 4.99 %); Attention-56
21.76 % on ImageNet-1k at 224 px. Not run here. CIFAR-10: 300 epochs of batches of 64, a rate of 0.1 divided by 10 after
90, 180 and 270 epochs, SGD with a Nesterov momentum of 0.9, a decay of 1e-4 on every parameter; images padded by 4
pixels, cropped and mirrored, pixels from 0 to 1. ImageNet: 530,000 steps of 64 images, the rate divided by 10 after
200,000, 400,000 and 500,000. What differs there: colours are not jittered. The small presets evaluate the weights
themselves: the batch statistics are theirs, not those of averaged weights. `plain_digits` is the baseline, the trunk
without masks.
"""

from longview.configs import base

CIFAR = base.backbone('residual_attention_92_cifar', adds=True)
IMAGENET = base.backbone('residual_attention_56')
SMALL = CIFAR | {'adds': False, 'modules': (1, 1, 1), 'last': 1, 'widths': (32, 64, 128, 128), 'stem_width': 16}
TINY = SMALL | {'modules': (1, 0, 1), 'widths': (16, 16, 32, 32), 'drop_path': 0.1}
EVERYTHING = (('.*', 1.0),)
UNIT_PIXELS = base.normalize((0.0,) * 3, (1.0,) * 3)


def cifar10(backbone):
    """The published run on CIFAR-10."""
    optimizer = base.sgd(base.staircase(0.1, (90.0, 180.0, 270.0)), decay_rules=EVERYTHING)
    config = base.cifar10(backbone, optimizer, epochs=300.0, batch_size=64, padding=4)
    return config | {'train_transforms': [UNIT_PIXELS], 'eval_transforms': [UNIT_PIXELS]}


def imagenet(backbone):
    """The published run on ImageNet."""
    epochs = lambda steps: steps * 64 / base.IMAGENET_SIZE
    optimizer = base.sgd(base.staircase(0.1, tuple(map(epochs, (2e5, 4e5, 5e5)))), decay_rules=EVERYTHING)
    config = base.imagenet(backbone, optimizer, epochs=epochs(5.3e5), batch_size=64, ema=None)
    return config | {'train_transforms': [base.normalize()]}


get_config = base.presets(
    cifar10=cifar10(CIFAR),
    imagenet=imagenet(IMAGENET | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    plain_digits=base.digits(SMALL | {'attention': 'none'}, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(cifar10(TINY)),
)
