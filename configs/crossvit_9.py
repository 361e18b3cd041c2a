"""CrossViT-9: two transformers on patches of two sizes, whose class tokens attend to each other's patches.

CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification, Chen et al., 2021,
https://arxiv.org/abs/2103.14899. Recipe: https://github.com/IBM/CrossViT (Apache-2.0), main.py and README.md.

    python train.py --config configs/crossvit_9.py --workdir runs/crossvit_9
    python train.py --config configs/crossvit_9.py:digits --workdir runs/crossvit_digits
    python train.py --config configs/crossvit_9.py:fine_digits --workdir runs/crossvit_fine_digits

Published: 8.6 M parameters, 73.9 % top-1 on ImageNet-1k at 240 px. Not run here. 300 epochs of batches of 4,096, 30 of
them warm-up; the peak rate is 5e-4 per 512 images; no decay of the tables of positions and the class tokens; DeiT's
augmentation. Not expressed: repeated augmentation (each image three times in an epoch of a third as many); 10 more
epochs at the last rate. Trained in float16, and here in bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for full precision).

Of the small presets `fine_digits` and `coarse_digits` are a ViT on the patches of one branch alone, with about as many
multiply-adds as both branches have.
"""

from longview.configs import base

BACKBONE = base.backbone('crossvit_9_240')
PAPER = BACKBONE | {'drop_path': 0.1, 'dtype': 'bfloat16'}
SHAPE = {'widths': (32, 64), 'depths': (1, 2), 'groups': 2, 'heads': (2, 2)}
SMALL = BACKBONE | SHAPE | {'patches': (2, 4), 'scales': (1.0, 1.0), 'image_size': 8}
TINY = SMALL | {'patches': (4, 8), 'scales': (1.0, 0.75), 'image_size': 32, 'drop_path': 0.1}
VIT = base.backbone('vit_small_patch16_224', fn='modelzoo.vision.vit:vit', image_size=8, heads=2)
FINE = VIT | {'patch': 2, 'width': 48, 'depth': 2}
COARSE = VIT | {'patch': 4, 'width': 64, 'depth': 5}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    schedule = {'start': 1e-6, 'end': 1e-5, 'warmup_epochs': warmup_epochs}
    optimizer = base.adamw(peak=4e-3, weight_decay=0.05, decay_rules=(('pos_embed|cls_token', 0.0),), **schedule)
    config = base.imagenet(backbone, optimizer, batch_size=4096, image_size=240, ema=None)
    config['task']['head']['fn'] = 'modelzoo.vision.crossvit:BranchHeads'
    return config


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=30.0),
    digits=base.digits(SMALL, epochs=60.0),
    fine_digits=base.digits(FINE, epochs=60.0),
    coarse_digits=base.digits(COARSE, epochs=60.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patches': (4, 7), 'image_size': 28}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
