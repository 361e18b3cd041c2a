"""SVT-S: a first stage of complex wavelets with learned gains and matrices, then attention.

Scattering Vision Transformer: Spectral Mixing Matters, Patro and Agneeswaran, 2023, https://arxiv.org/abs/2311.01310.
Recipe: https://github.com/badripatro/svt (no licence), commit fcbc9b3, main.py, main.sh and configs/svt.

    python train.py --config configs/svt_s.py --workdir runs/svt_s
    python train.py --config configs/svt_s.py --workdir runs/svt_l --config.task.backbone.variant=svt_l \
        --config.task.backbone.drop_path=0.3 --config.optimizer.clip_norm=1.0
    python train.py --config configs/svt_s.py:digits --workdir runs/svt_digits
    python train.py --config configs/svt_s.py:attention_digits --workdir runs/svt_attention_digits

Published: 22.0 M parameters, 84.2 % top-1 on ImageNet-1k at 224 px; SVT-B 85.2 %, SVT-L 85.7 %. Not run here. 310
epochs of batches of 128 on each of 8 devices at a rate of 5e-4 per 512 images, 5 epochs of them warm-up from 1e-6, down
to 1e-5; AdamW with a decay of 0.05; labels smoothed by 0.1, no mixup, no cutmix, no average of weights. Not expressed:
all published networks were trained with token labels, maps of 7x7 labels by a teacher with half of the weight, and with
tokens mixed between images; here the class token alone is trained, by a linear head. bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).

The small presets have two stages of a block, of which the first one scatters; in `attention_digits` both attend.
"""

from longview.configs import base

BACKBONE = base.backbone('svt_s')
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (1, 1),
    'heads': (1, 2),
    'ratios': (4, 4),
    'scattered': 1,
    'stem_width': 16,
    'stem_stride': 1,
    'image_size': 8,
}
TINY = SMALL | {'widths': (16, 32), 'stem_stride': 4, 'image_size': 32, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network, without its teacher."""
    optimizer = base.adamw(peak=1e-3, weight_decay=0.05, start=1e-6, end=1e-5, warmup_epochs=warmup_epochs)
    config = base.imagenet(backbone, optimizer, epochs=310.0, ema=None)
    config['task']['label_smoothing'] = 0.1
    *augment, _ = base.timm_transforms()  # the last one mixes images
    return config | {'train_transforms': augment}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    attention_digits=base.digits(SMALL | {'scattered': 0}),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
