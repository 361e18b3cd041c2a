"""EfficientNet-B0: inverted bottlenecks with depthwise convolutions and squeeze-and-excitation.

EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, Tan and Le, 2019,
https://arxiv.org/abs/1905.11946. Recipe: https://github.com/facebookresearch/pycls (MIT),
configs/dds_baselines/effnet/EN-B0_dds_8gpu.yaml, which is simpler than the authors'.

    python train.py --config configs/efficientnet_b0.py --workdir runs/efficientnet_b0
    python train.py --config configs/efficientnet_b0.py:digits --workdir runs/efficientnet_digits

Published: there 5.3 M parameters, 75.1 % top-1 on ImageNet-1k at 224 px. Not run here. 100 epochs of batches of 256,
SGD with a Nesterov momentum of 0.9, a decay of 1e-5 on every parameter, a cosine from a rate of 0.4 to 0, and 5 epochs
of warm-up from a tenth of it, which MODEL_ZOO.md has and that file leaves out. What differs: colours are not jittered,
and the cosine begins where the warm-up ends. bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for
the published precision). The small presets evaluate the weights themselves: the batch statistics are theirs, not those
of averaged weights.
"""

from longview.configs import base

BACKBONE = base.backbone('efficientnet_b0')
SMALL = BACKBONE | {
    'stem_stride': 1,
    'stem_width': 16,
    'depths': (1, 2, 2),
    'widths': (16, 24, 48),
    'expansions': (1, 4, 4),
    'kernel_sizes': (3, 3, 5),
    'steps': (1, 2, 2),
    'head_width': 192,
}
TINY = SMALL | {'depths': (1, 2, 1), 'widths': (8, 16, 16), 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network."""
    schedule = base.cosine(0.4, warmup_epochs=5.0) | {'start': 0.04}
    optimizer = base.sgd(schedule, weight_decay=1e-5, decay_rules=(('.*', 1.0),))
    config = base.imagenet(backbone, optimizer, epochs=100.0, batch_size=256, ema=None)
    return config | {'train_transforms': [base.normalize()]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
