"""ViT-S/16, the plain baseline: 90 epochs of ImageNet-1k without tricks.

Better plain ViT baselines for ImageNet-1k, Beyer et al., 2022, https://arxiv.org/abs/2205.01580, for the network of
Dosovitskiy et al., 2020, https://arxiv.org/abs/2010.11929. Recipe: https://github.com/google-research/big_vision
(Apache-2.0), big_vision/configs/vit_s16_i1k.py.

    python train.py --config configs/vit_s16.py --workdir runs/vit_s16
    python train.py --config configs/vit_s16.py --workdir runs/vit_s16_300 --config.epochs=300
    python train.py --config configs/vit_s16.py:digits --workdir runs/vit_s16_digits

Published: 76.5 % top-1 on ImageNet-1k at 224 px after 90 epochs, 80.0 % after 300. Not run here. Batches of 1,024,
10,000 steps of warm-up, the mean of the patches in place of a class token, fixed sines in place of a position table,
RandAugment of two operations of magnitude 10, mixup of 0.2. The decay of 1e-4 is not multiplied by the rate there and
is here, hence 0.1; only kernels decay. What differs: the published network has one more layer (384 wide, tanh) before
its logits, which start at 0; its RandAugment takes the nearest pixel; it trains on 99 % of the training images.
bfloat16 with float32 parameters (--config.task.backbone.dtype=float32 for the published precision).
"""

from longview.configs import base

BACKBONE = base.backbone('vit_small_patch16_224', fn='modelzoo.vision.vit:vit', plain=True, scan=False)
SMALL = BACKBONE | {'patch': 2, 'width': 64, 'depth': 4, 'heads': 2}
TINY = BACKBONE | {'patch': 8, 'width': 32, 'depth': 2, 'heads': 2, 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.adamw(peak=1e-3, warmup_epochs=warmup_epochs, weight_decay=0.1, clip_norm=1.0)
    transforms = base.big_vision_augmentation(base.mixup(alpha=0.2))
    return base.imagenet(backbone, optimizer, epochs=90.0, ema=None) | transforms


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=8.0),
    digits=base.digits(SMALL, epochs=100.0),
    fashion_mnist=base.fashion_mnist(SMALL | {'patch': 4, 'depth': 3}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
