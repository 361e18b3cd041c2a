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

BACKBONE = {
    'fn': 'modelzoo.vision.vit:vit',
    'variant': 'vit_small_patch16_224',
    'plain': True,
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
HALF = (0.5, 0.5, 0.5)


def recipe(backbone, optimizer):
    """The published run of a network."""
    normalize = base.normalize(HALF, HALF)
    transforms = [
        {
            'fn': 'methods.randaugment:RandAugment',
            'magnitude': 10.0,
            'magnitude_std': 0.0,
            'layers': 2,
            'probability': 1.0,
            'fill': (128, 128, 128),
            'interpolation': 'bilinear',
            'contrast': 'published',
        },
        normalize,
        {
            'fn': 'methods.augment:Mix',
            'num_classes': 1000,
            'mixup_alpha': 0.2,
            'cutmix_alpha': 0.0,
            'label_smoothing': 0.0,
        },
    ]
    return base.imagenet(backbone, optimizer, epochs=90.0, ema=None) | {
        'train_transforms': transforms,
        'eval_transforms': [normalize],
    }


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=1e-3, warmup_epochs=8.0, weight_decay=0.1, clip_norm=1.0)
        return recipe(BACKBONE | {'dtype': 'bfloat16'}, optimizer)

    def digits():
        return base.digits(BACKBONE | {'patch': 2, 'width': 64, 'depth': 4, 'heads': 2}, epochs=100.0)

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | {'patch': 4, 'width': 64, 'depth': 3, 'heads': 2})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1, 'patch': 8, 'width': 32, 'depth': 2, 'heads': 2}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.1, clip_norm=1.0)
        return base.smoke(recipe(shrunk, optimizer), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
