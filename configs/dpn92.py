"""DPN-92: a dual path network, whose blocks add to some channels and append others.

Dual Path Networks, Chen et al., 2017, https://arxiv.org/abs/1707.01629. Recipe: section 4 of the paper and
https://github.com/cypw/DPNs (no licence).

    python train.py --config configs/dpn92.py --workdir runs/dpn92
    python train.py --config configs/dpn92.py:digits --workdir runs/dpn_digits

Published: 37.8 M parameters, 79.3 % top-1 on ImageNet-1k at 224 px. Not run here. Batches of 1,280 (40 GPUs with 32
images), SGD with a momentum of 0.9, a rate of 0.316 that falls in steps by a factor of 10, crops of 8 to 100 % of the
image, mirrored. How long they trained, when the rate fell and how much weights decayed is not published: here 90
epochs, a tenth every 30 of them, and 1e-4 on every parameter, as He et al. have it. What differs: hue, saturation and
lightness are not jittered. bfloat16 with float32 parameters. The small presets evaluate the weights themselves: the
batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('dpn92')
SMALL = BACKBONE | {
    'depths': (1, 2, 1),
    'appended': (8, 8, 16),
    'added': 32,
    'width': 32,
    'groups': 8,
    'stem_width': 16,
    'stem_size': 3,
    'stem_stride': 1,
}
TINY = SMALL | {'depths': (1, 1, 1), 'added': 16, 'width': 16}
MEAN, STD = (124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3


def recipe(backbone):
    """The published run of a network, and what is not published of it as said above."""
    schedule = base.staircase(0.316, (30.0, 60.0))
    optimizer = base.sgd(schedule, nesterov=False, decay_rules=(('.*', 1.0),))
    config = base.imagenet(backbone, optimizer, epochs=90.0, batch_size=1280, ema=None)
    normalize = base.normalize(MEAN, STD)
    return config | {'train_transforms': [normalize], 'eval_transforms': [normalize]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
