"""TransNeXt-Micro: each pixel attends to its neighbours and to a pooled map under one softmax.

TransNeXt: Robust Foveal Visual Perception for Vision Transformers, Shi, 2023, https://arxiv.org/abs/2311.17132. Recipe:
https://github.com/DaiShiResearch/TransNeXt (Apache-2.0), commit c8a9974, classification/configs, main.py and README.md.

    python train.py --config configs/transnext_micro.py --workdir runs/transnext_micro
    python train.py --config configs/transnext_micro.py --workdir runs/transnext_tiny \
        --config.task.backbone.variant=transnext_tiny --config.task.backbone.drop_path=0.25
    python train.py --config configs/transnext_micro.py:digits --workdir runs/transnext_digits
    python train.py --config configs/transnext_micro.py:full_digits --workdir runs/transnext_full_digits

Published: 12.8 M parameters, 82.5 % top-1 on ImageNet-1k at 224 px; Tiny 84.0 %, Small 84.7 %, Base 84.8 %. Not run
here. 300 epochs of batches of 1024 at a rate of 1e-3, 5 epochs of them warm-up from 1e-6, down to 1e-5; AdamW with a
decay of 0.05 on all but vectors, learned queries, biases of neighbours and the network that makes biases of offsets;
gradients clipped to 1; stochastic depth of 0.15 (Tiny 0.25, Small 0.45, Base 0.6); evaluated without averaging of
weights. Not expressed: repeated augmentation (each image three times in an epoch of a third as many), and 10 more
epochs at the last rate. bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for full precision).

The small presets have two stages, the first pooled by 2; `full_digits` attends between all pixels there.
"""

from longview.configs import base

BACKBONE = base.backbone('transnext_micro')
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (1, 2),
    'heads': (2, 4),
    'ratios': (4, 4),
    'reductions': (2, 1),
    'stem_stride': 1,
    'pretrained_size': 8,
}
FULL = SMALL | {'reductions': (1, 1)}
TINY = SMALL | {'widths': (16, 32), 'depths': (1, 1), 'stem_stride': 4, 'pretrained_size': 32, 'drop_path': 0.1}
KEPT = (('queries/kernel', 0.0), ('mixer/pos_embed', 0.0), ('mixer/bias/', 0.0))


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(
        peak=1e-3, weight_decay=0.05, start=1e-6, end=1e-5, clip_norm=1.0, decay_rules=KEPT, **schedule
    )
    return base.imagenet(backbone, optimizer, ema=None)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.15, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    full_digits=base.digits(FULL),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'pretrained_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
