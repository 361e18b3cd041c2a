"""RegNetY-400MF: a network of grouped bottlenecks whose stages follow from a line; and networks scaled from it.

Designing Network Design Spaces, Radosavovic et al., 2020, https://arxiv.org/abs/2003.13678. Fast and Accurate Model
Scaling, Dollár et al., 2021, https://arxiv.org/abs/2103.06877. Recipe: https://github.com/facebookresearch/pycls (MIT),
configs/dds_baselines/regnety/RegNetY-400MF_dds_8gpu.yaml.

    python train.py --config configs/regnet.py --workdir runs/regnet
    python train.py --config configs/regnet.py:fast_imagenet --workdir runs/regnet_4x
    python train.py --config configs/regnet.py:digits --workdir runs/regnet_digits

Published: 4.3 M parameters, 74.1 % top-1 on ImageNet-1k at 224 px. Not run here. 100 epochs of batches of 1,024, SGD
with a Nesterov momentum of 0.9, a decay of 5e-5 on every parameter, 5 epochs of warm-up from a tenth of a rate of 0.8,
a cosine to 0. What differs: colours are not jittered, and the cosine begins where the warm-up ends. bfloat16 with
float32 parameters (--config.task.backbone.dtype=float32 for the published precision). `fast_imagenet` is the network
with 4 times the multiply-adds by fast scaling, at 240 px; the second paper trains its networks with more augmentation.
`fast_digits`, `w_digits`, `dwr_digits` and `d_digits` are the network of `digits` with 4 times the multiply-adds, by
fast scaling and along these axes alone; with resolution, images of 10 x 10. The small presets evaluate the weights
themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

SCALED = 'modelzoo.vision.regnet:scaled'
BACKBONE = base.backbone('regnety_004')
SIZES = {
    'stem_stride': 1,
    'first_stride': 1,
    'stem_width': 16,
    'depths': (1, 2, 2),
    'widths': (24, 56, 104),
    'groups': (8, 8, 8),
}
SMALL = BACKBONE | SIZES
TINY = SMALL | {'depths': (1, 2), 'widths': (16, 32), 'groups': (8, 8), 'drop_path': 0.1}
FAST = 'd1_w8_g8_r1'


def recipe(backbone, image_size=224):
    """The published run of a network."""
    schedule = base.cosine(0.8, warmup_epochs=5.0) | {'start': 0.08}
    optimizer = base.sgd(schedule, weight_decay=5e-5, decay_rules=(('.*', 1.0),))
    config = base.imagenet(backbone, optimizer, epochs=100.0, image_size=image_size, ema=None)
    return config | {'train_transforms': [base.normalize()]}


def scaled(kind, sizes=None):
    """The network with 4 times its multiply-adds."""
    return base.backbone('regnety_004', fn=SCALED, kind=kind, work=4.0, **(sizes or {}))


def scaled_digits(kind, image_size=None):
    """The small network, scaled, on images as large as the kind of scaling has them."""
    config = base.digits(scaled(kind, SIZES), ema=None)
    if image_size is not None:
        config['data']['image_size'] = image_size
    return config


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    fast_imagenet=recipe(scaled(FAST) | {'dtype': 'bfloat16'}, image_size=240),
    digits=base.digits(SMALL, ema=None),
    d_digits=scaled_digits('d'),
    w_digits=scaled_digits('w'),
    dwr_digits=scaled_digits('dwr', image_size=10),
    fast_digits=scaled_digits(FAST),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
