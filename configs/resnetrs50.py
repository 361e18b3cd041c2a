"""ResNet-RS-50: a ResNet with the training and the scaling of 2021.

Revisiting ResNets: Improved Training and Scaling Strategies, Bello et al., 2021, https://arxiv.org/abs/2103.07579.
Recipe: https://github.com/tensorflow/tpu (Apache-2.0), models/official/resnet/resnet_rs/configs/resnetrs50_i160.yaml.

    python train.py --config configs/resnetrs50.py --workdir runs/resnetrs50
    python train.py --config configs/resnetrs50.py:digits --workdir runs/resnetrs_digits

Published: 35.7 M parameters, 78.8 % top-1 on ImageNet-1k at 160 px. Not run here. 350 epochs of batches of 4,096, 5
epochs of warm-up to a rate of 1.6, a cosine to 0, SGD with a momentum of 0.9, a decay of 4e-5 on kernels, labels
smoothed by 0.1, RandAugment of two operations of magnitude 10, weights averaged by 0.9999; batch statistics are those
of the last batch, which the average of the weights smooths. What differs: no dropout of 0.25 before the head, which is
not built. bfloat16 with float32 parameters, as published.
"""

from longview.configs import base

LAST_BATCH = {'partial': 'modelzoo.layers.norms.batchnorm:BatchNorm', 'momentum': 0.0}
BACKBONE = base.backbone('resnetrs50')
SMALL = BACKBONE | {'stem_stride': 1, 'stem_width': 32, 'depths': (1, 1, 1), 'widths': (64, 128, 256)}
TINY = BACKBONE | {'stem_width': 16, 'depths': (2, 1), 'widths': (32, 64), 'drop_path': 0.1}
RANDAUGMENT = {
    'fn': 'methods.randaugment:RandAugment',
    'magnitude': 10.0,
    'magnitude_std': 0.0,
    'layers': 2,
    'probability': 1.0,
    'contrast': 'published',
}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.sgd(base.cosine(1.6, warmup_epochs=warmup_epochs), nesterov=False, weight_decay=4e-5)
    config = base.imagenet(backbone, optimizer, epochs=350.0, batch_size=4096, image_size=160, ema=0.9999)
    config['task']['inner']['label_smoothing'] = 0.1
    return config | {'train_transforms': [RANDAUGMENT, base.normalize()]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'norm': LAST_BATCH, 'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}, ema=None),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
