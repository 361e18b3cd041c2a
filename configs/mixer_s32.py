"""MLP-Mixer-S/32: two matrices across the patches in place of attention.

MLP-Mixer: An all-MLP Architecture for Vision, Tolstikhin et al., 2021, https://arxiv.org/abs/2105.01601. Recipe:
https://github.com/google-research/big_vision (Apache-2.0), big_vision/configs/mlp_mixer_i1k.py, which is for
Mixer-B/16.

    python train.py --config configs/mixer_s32.py --workdir runs/mixer_s32
    python train.py --config configs/mixer_s32.py:digits --workdir runs/mixer_s32_digits

Published: 19 M parameters; its accuracy on ImageNet-1k alone is not, that of Mixer-B/16 is 76.4 % top-1 at 224 px.
Not run here. 300 epochs of batches of 4,096, 10,000 steps of warm-up, RandAugment of two operations of magnitude 15,
mixup of 0.5, stochastic depth of 0.1. The decay of 1e-4 is not multiplied by the rate there and is here, hence 0.1.
Not expressed: the linear fall of the rate (a cosine here) and one logistic loss a class (a softmax here). What
differs: RandAugment's magnitude ends at 10 here. bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for the published precision).
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'mixer_s32_224',
    'drop_path': 0.0,
    'dtype': 'float32',
    'remat': False,
    'scan': False,
}
RECIPE = {'drop_path': 0.1, 'dtype': 'bfloat16'}
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
            'mixup_alpha': 0.5,
            'cutmix_alpha': 0.0,
            'label_smoothing': 0.0,
        },
    ]
    return base.imagenet(backbone, optimizer, batch_size=4096, ema=None) | {
        'train_transforms': transforms,
        'eval_transforms': [normalize],
    }


def get_config(preset=None):
    """The presets are those of configs/base.py; the small ones keep the architecture and shrink width and depth."""

    def imagenet():
        optimizer = base.adamw(peak=1e-3, end=1e-5, warmup_epochs=32.0, weight_decay=0.1, clip_norm=1.0)
        return recipe(BACKBONE | RECIPE, optimizer)

    def digits():
        return base.digits(BACKBONE | {'patch': 2, 'width': 64, 'depth': 4})

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | {'patch': 4, 'width': 64, 'depth': 4})

    def smoke():
        shrunk = BACKBONE | {'drop_path': 0.1, 'patch': 8, 'width': 32, 'depth': 2}
        optimizer = base.adamw(peak=1e-3, warmup_epochs=0.1, weight_decay=0.1, clip_norm=1.0)
        return base.smoke(recipe(shrunk, optimizer), image_size=32)

    return base.select(preset, {'imagenet': imagenet, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
