"""ResNet-50, the reference network of ImageNet.

Deep Residual Learning for Image Recognition, He et al., 2015, https://arxiv.org/abs/1512.03385. Recipe: Accurate,
Large Minibatch SGD, Goyal et al., 2017, https://arxiv.org/abs/1706.02677, section 5.1 (its baseline of 256 images).

    python train.py --config configs/resnet50.py --workdir runs/resnet50
    python train.py --config configs/resnet50.py:digits --workdir runs/resnet50_digits
    python train.py --config configs/resnet50.py --workdir runs/resnet18 --config.task.backbone.variant=resnet18

Published: 23.6 % top-1 error on ImageNet-1k at 224 px with one crop (Goyal et al.). Not run here. 90 epochs of
batches of 256, a rate of 0.1 that is divided by ten after 30, 60 and 80 epochs, SGD with a Nesterov momentum of 0.9, a
decay of 1e-4 on kernels only. A larger batch wants a rate in proportion and 5 epochs of warm-up. What differs: colors
are not jittered, which is not built; batch statistics are of the whole batch, there of 32 images a device; bfloat16
with float32 parameters (--config.task.backbone.dtype=float32 for the published precision). The small presets evaluate
the weights themselves: the batch statistics are theirs, not those of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('resnet50')
SMALL = BACKBONE | {'stem_stride': 1, 'stem_width': 32, 'depths': (1, 1, 1), 'widths': (64, 128, 256)}
TINY = BACKBONE | {'stem_width': 16, 'depths': (1, 1), 'widths': (32, 64), 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network."""
    optimizer = base.sgd(base.staircase(0.1, (30.0, 60.0, 80.0)))
    return base.imagenet(backbone, optimizer, epochs=90.0, batch_size=256, ema=None) | {
        'train_transforms': [base.normalize()]
    }


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
