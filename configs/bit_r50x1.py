"""BiT R50x1: group normalization and standardized kernels, for transfer.

Big Transfer (BiT), Kolesnikov et al., 2019, https://arxiv.org/abs/1912.11370. Recipe: its section 3.2, pre-training
on ImageNet-1k ("BiT-S"); code at https://github.com/google-research/big_transfer (Apache-2.0).

    python train.py --config configs/bit_r50x1.py --workdir runs/bit_r50x1
    python train.py --config configs/bit_r50x1.py:digits --workdir runs/bit_r50x1_digits

Published: 81.3 % top-1 on ImageNet-1k for R152x4 pre-trained on ImageNet-1k; the paper prints no figure of R50x1 for
this run. Not run here. 90 epochs of batches of 4,096, 5,000 steps of warm-up to a rate of 0.03 per 256 images, divided
by ten after 30, 60 and 80 epochs, SGD with a momentum of 0.9, a decay of 1e-4. What differs: only kernels decay.
Fine-tuning published weights by the paper's rule (500 to 20,000 steps, mixup of 0.1, larger images) is not a config
yet. bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for the published precision).
"""

from longview.configs import base

BACKBONE = base.backbone('resnetv2_50x1_bit', fn='modelzoo.vision.resnetv2:resnetv2')
SMALL = BACKBONE | {'stem_stride': 1, 'stem_width': 32, 'depths': (1, 1, 1), 'widths': (64, 128, 256), 'groups': 8}
TINY = BACKBONE | {'drop_path': 0.1, 'stem_width': 16, 'depths': (1, 1), 'widths': (32, 64), 'groups': 4}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    schedule = base.staircase(0.03 * 4096 / 256, (30.0, 60.0, 80.0), warmup_epochs=warmup_epochs)
    normalize = base.normalize(base.HALF, base.HALF)
    return base.imagenet(backbone, base.sgd(schedule, nesterov=False), epochs=90.0, batch_size=4096, ema=None) | {
        'train_transforms': [normalize],
        'eval_transforms': [normalize],
    }


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=5000 * 4096 / base.IMAGENET_SIZE),
    digits=base.digits(SMALL),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
