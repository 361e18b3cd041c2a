"""NFNet-F0: large-scale recognition without normalization.

High-Performance Large-Scale Image Recognition Without Normalization, Brock, De, Smith and Simonyan, 2021,
https://arxiv.org/abs/2102.06171. Recipe: https://github.com/google-deepmind/deepmind-research (Apache-2.0),
nfnets/experiment_nfnets.py.

    python train.py --config configs/nfnet_f0.py --workdir runs/nfnet_f0
    python train.py --config configs/nfnet_f0.py:digits --workdir runs/nfnet_f0_digits

Published: 71.5 M parameters, 83.6 % top-1 on ImageNet-1k, trained at 192 px and tested at 256. Not run here. 360 epochs
of batches of 4,096, 5 epochs of warm-up to a rate of 0.1 per 256 images, a cosine to 0, SGD with a Nesterov momentum of
0.9, a decay of 2e-5 on kernels; gradients clipped to 0.01 of each unit's weights, the head spared; stochastic depth of
0.25, RandAugment of four operations of magnitude 5, mixup and cutmix, labels smoothed by 0.1, averaged weights. What
differs: no dropout of 0.2 before the head, which is not built; evaluation at 192 px
(--config.data.image_size=256 changes both); stochastic depth rises with the depth as there; mixup and cutmix take turns
by batch, there each half of a batch has one.
bfloat16 with float32 parameters, as published.
"""

from longview.configs import base

BACKBONE = base.backbone('dm_nfnet_f0', fn='modelzoo.vision.nfnet:nfnet')
PAPER = BACKBONE | {'drop_path': 0.25, 'dtype': 'bfloat16'}
SMALL = BACKBONE | {
    'stem_stride': 1,
    'stem_width': 32,
    'depths': (1, 1, 1),
    'widths': (64, 128, 256),
    'final_width': 256,
    'group_size': 32,
}
TINY = BACKBONE | {
    'stem_width': 16,
    'depths': (1, 1),
    'widths': (32, 64),
    'final_width': 64,
    'group_size': 16,
    'drop_path': 0.1,
}


def recipe(backbone, warmup_epochs, ema):
    """The published run of a network."""
    optimizer = base.sgd(base.cosine(1.6, warmup_epochs=warmup_epochs), weight_decay=2e-5, adaptive_clip=0.01)
    transforms = [
        {
            'fn': 'methods.randaugment:RandAugment',
            'magnitude': 5.0,
            'magnitude_std': 0.0,
            'layers': 4,
            'probability': 1.0,
            'contrast': 'published',
        },
        base.normalize(),
        {
            'fn': 'methods.augment:Mix',
            'num_classes': None,
            'mixup_alpha': 0.2,
            'cutmix_alpha': 1.0,
            'switch_probability': 0.5,
            'label_smoothing': 0.1,
        },
    ]
    return base.imagenet(backbone, optimizer, epochs=360.0, batch_size=4096, image_size=192, ema=ema) | {
        'train_transforms': transforms
    }


get_config = base.presets(
    imagenet=recipe(PAPER, warmup_epochs=5.0, ema=0.99999),
    digits=base.digits(SMALL),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1, ema=0.9)),
)
