"""PiT-S: a vision transformer in three resolutions.

Rethinking Spatial Dimensions of Vision Transformers, Heo et al., 2021, https://arxiv.org/abs/2103.16302.
Recipe: https://github.com/naver-ai/pit (Apache-2.0), README.md: the script of DeiT with its defaults, 4 processes of
256 images.

    python train.py --config configs/pit_s.py --workdir runs/pit_s
    python train.py --config configs/pit_s.py --workdir runs/pit_s_max --config.task.backbone.variant=pit_s_max
    python train.py --config configs/pit_s.py:digits --workdir runs/pit_s_digits
    python train.py --config configs/pit_s.py:max_digits --workdir runs/pit_s_max_digits

Published: 23.5 M parameters, 80.9 % top-1 on ImageNet-1k at 224 px; 80.8 % with maxima of 3x3 tokens in the place of
every second attention (Learning Features with Parameter-Free Layers, Han et al., 2022,
https://arxiv.org/abs/2202.02777). Not run here. 300 epochs of batches of 1,024, 5 of them warm-up; the peak rate is
5e-4 per 512 images; no decay of the position table and the class token. Not expressed: repeated augmentation (each
image three times in an epoch of a third as many). Trained in float16, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).
"""

from longview.configs import base

BACKBONE = base.backbone('pit_s_224')
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {'head_width': 16, 'depths': (1, 2), 'heads': (2, 4)}
DIGITS = SMALL | {'stem_size': 2, 'stem_stride': 1, 'image_size': 8}
TINY = SMALL | {'head_width': 8, 'stem_size': 8, 'stem_stride': 4, 'image_size': 32, 'drop_path': 0.1}
MAXIMA = {'tokens': 0, 'mixers': [{'partial': f'modelzoo.vision.pit:{name}'} for name in ('attention', 'maxima')]}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(weight_decay=0.05, decay_rules=(('pos_embed|cls_token|token_table', 0.0),), **schedule)
    return base.imagenet(backbone, optimizer, ema=None)


get_config = base.presets(
    imagenet=recipe(PAPER, peak=1e-3, start=1e-6, end=1e-5, warmup_epochs=5.0),
    digits=base.digits(DIGITS),
    max_digits=base.digits(DIGITS | MAXIMA),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_size': 4, 'stem_stride': 2, 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, peak=1e-3, warmup_epochs=0.1)),
)
