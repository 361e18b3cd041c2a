"""Pre-activation ResNets of 110, 164 and 1001 layers for CIFAR.

Identity Mappings in Deep Residual Networks, He et al., 2016, https://arxiv.org/abs/1603.05027. Recipe:
https://github.com/KaimingHe/resnet-1k-layers (no licence stated) and the paper's section 5.

    python train.py --config configs/preact_resnet164.py --workdir runs/preact_resnet164
    python train.py --config configs/preact_resnet164.py:deepest_cifar10 --workdir runs/preact_resnet1001
    python train.py --config configs/preact_resnet164.py:digits --workdir runs/preact_digits
    python train.py --config configs/preact_resnet164.py:post_digits --workdir runs/post_digits

Published: 5.46 % error on CIFAR-10 with 164 layers; 4.92 % with 1001 layers, 4.62 % in batches of 64. Not run here. 200
epochs of batches of 128 (of 64 with 1001 layers), a rate of 0.1 divided by 10 after 81 and 122 epochs, SGD with a
Nesterov momentum of 0.9, a decay of 1e-4 on every parameter; images padded by 4 pixels, cropped and mirrored. The paper
trains for 64,000 steps and begins with a rate of 0.01 for 400 steps; the code, which these are, warms up not at all.
`digits` is the basic network of 110 layers with 4, 8 and 16 channels; `post_digits` is the same network with its norms
and ReLUs behind the convolutions, as in the paper before. What they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = base.backbone('preact_resnet164_cifar', scan=True)
DEEPEST = base.backbone('preact_resnet1001_cifar', scan=True, remat=True)
BASIC = base.backbone('preact_resnet110_cifar', scan=True)
POST = base.backbone('resnet110_cifar')
NARROW = {'widths': (4, 8, 16), 'stem_width': 4}
TINY = BACKBONE | {'depths': (2, 1), 'widths': (16, 32), 'drop_path': 0.1}


def recipe(backbone, batch_size=128):
    """The published run of a network."""
    optimizer = base.sgd(base.staircase(0.1, (81.0, 122.0)), decay_rules=(('.*', 1.0),))
    return base.cifar10(backbone, optimizer, epochs=200.0, batch_size=batch_size, padding=4)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    deepest_cifar10=recipe(DEEPEST, batch_size=64),
    digits=base.digits(BASIC | NARROW, epochs=60.0, ema=None),
    post_digits=base.digits(POST | NARROW, epochs=60.0, ema=None),
    fashion_mnist=base.fashion_mnist(BACKBONE | {'depths': (2, 2, 2)}, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
