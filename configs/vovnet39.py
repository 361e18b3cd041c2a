"""VoVNet-39: blocks that aggregate the outputs of all their layers once.

An Energy and GPU-Computation Efficient Backbone Network for Real-Time Object Detection, Lee et al., 2019,
https://arxiv.org/abs/1904.09730. Recipe: https://github.com/stigma0617/VoVNet.pytorch (no licence), which trains as
the ImageNet example of PyTorch does.

    python train.py --config configs/vovnet39.py --workdir runs/vovnet39
    python train.py --config configs/vovnet39.py:digits --workdir runs/vovnet_digits

Published: 76.77 % top-1 on ImageNet-1k. Not run here. 90 epochs of batches of 256, a rate of 0.1 divided by 10 every 30
epochs, SGD with a momentum of 0.9, a decay of 1e-4 on every parameter; random resized crops, mirrored. bfloat16 with
float32 parameters (--config.task.backbone.dtype=float32 for the published precision). The small presets have the gates
of the second VoVNet, and evaluate the weights themselves: the batch statistics are theirs, not those of averaged
weights.
"""

from longview.configs import base

BACKBONE = base.backbone('vovnet39')
SMALL = base.backbone('ese_vovnet39b') | {
    'depths': (1, 2, 1),
    'widths': (32, 64, 128),
    'inner': (16, 24, 32),
    'count': 3,
    'stem': (16, 16, 32),
    'stem_stride': 1,
}
TINY = SMALL | {'depths': (1, 1, 1), 'count': 2, 'inner': (8, 8, 16)}


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.sgd(base.staircase(0.1, (30.0, 60.0)), nesterov=False, decay_rules=(('.*', 1.0),))
    config = base.imagenet(backbone, optimizer, epochs=90.0, batch_size=256, ema=None)
    return config | {'train_transforms': [base.normalize()]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
