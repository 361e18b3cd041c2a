"""GLNet-4G: convolutions on pixels, beside attention between 64 slots that pixels are softly clustered into.

Revisiting the Integration of Convolution and Attention for Vision Backbone, Zhu et al., 2024,
https://arxiv.org/abs/2411.14429. Recipe: https://github.com/rayleizhu/GLMix (MIT), commit 3c93dbf,
scripts/train_cx2.sh, configs/main_cx2.yaml and README.md.

    python train.py --config configs/glnet_4g.py --workdir runs/glnet_4g
    python train.py --config configs/glnet_4g.py --workdir runs/glnet_9g \
        --config.task.inner.backbone.variant=glnet_9g --config.task.inner.backbone.drop_path=0.3
    python train.py --config configs/glnet_4g.py:digits --workdir runs/glnet_digits
    python train.py --config configs/glnet_4g.py:pixel_digits --workdir runs/glnet_pixel_digits

Published: 27 M parameters, 83.7 % top-1 on ImageNet-1k at 224 px; GLNet-9G 84.5 %, GLNet-16G 85.0 %. Not run here. 300
epochs of batches of 2,048 at a rate of 2e-3, 5 epochs of them warm-up, down to 1e-5; AdamW with a decay of 0.05,
gradients clipped to a norm of 5, weights averaged by 0.9999; stochastic depth of 0.15 (GLNet-9G 0.3, GLNet-16G 0.4,
glnet_stl 0.1). Not expressed: repeated augmentation (each image three times in an epoch of a third as many), and the
training of glnet_4g_tklb with token labels. bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for full precision).

The small presets have two stages, and four slots in the first; `pixel_digits` attends between all pixels in both, and
has no convolution beside it.
"""

from longview.configs import base

BACKBONE = base.backbone('glnet_4g')
SMALL = BACKBONE | {
    'widths': (32, 64),
    'depths': (1, 1),
    'mixing': ('slots', 'pixels'),
    'mixer': {'partial': 'modelzoo.vision.glnet:GLMix', 'slots': 4},
    'stem_stride': 1,
}
PIXELS = SMALL | {'mixing': ('pixels', 'pixels')}
TINY = SMALL | {'mixing': ('slots', 'both'), 'depths': (1, 2), 'stem_stride': 4, 'drop_path': 0.1}


def recipe(backbone, **schedule):
    """The published run of a network."""
    optimizer = base.adamw(peak=2e-3, weight_decay=0.05, end=1e-5, clip_norm=5.0, **schedule)
    return base.imagenet(backbone, optimizer, batch_size=2048, ema=0.9999)


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'drop_path': 0.15, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    pixel_digits=base.digits(PIXELS),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 2}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
