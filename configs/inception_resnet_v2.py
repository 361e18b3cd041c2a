"""Inception-ResNet-v2: parallel convolutions whose scaled sum is added to a block's input.

Inception-v4, Inception-ResNet and the Impact of Residual Connections on Learning, Szegedy et al., 2016,
https://arxiv.org/abs/1602.07261. Recipe: the paper, and the defaults of the authors'
https://github.com/tensorflow/models (Apache-2.0), research/slim, where it says nothing.

    python train.py --config configs/inception_resnet_v2.py --workdir runs/inception_resnet_v2
    python train.py --config configs/inception_resnet_v2.py --workdir runs/inception_v4 \
        --config.task.inner.backbone.variant=inception_v4
    python train.py --config configs/inception_resnet_v2.py:digits --workdir runs/inception_resnet_v2_digits
    python train.py --config configs/inception_resnet_v2.py:v4_digits --workdir runs/inception_v4_digits

Published: 80.1 % top-1 on ImageNet-1k at 299 px, Inception-v4 80.0 %, one crop each, without the black-listed images.
Not run here. RMSProp with a decay of 0.9 and an epsilon of 1 at a rate of 0.045 that is multiplied by 0.94 every two
epochs, evaluated with averaged weights. From the code: batches of 32 on each of the paper's 20 replicas, a momentum of
0.9, a decay of 4e-5 on kernels, labels smoothed by 0.1, crops of at least 5 % of the area, interpolated linearly,
distorted brightness and saturation, weights averaged by 0.9999 and batch statistics by 0.9997; dropout of 0.2 before
the head is both the paper's and the code's. 160 epochs are our choice. What differs: the replicas were asynchronous;
images to evaluate are cropped to a square before they are shrunk, and antialiased. bfloat16 with float32 parameters
(--config.task.inner.backbone.dtype=float32 for the published precision).

The small presets have padding everywhere, and an eighth of the channels; `v4_digits` is Inception-v4 with as many
blocks.
"""

from longview.configs import base

PUBLISHED_NORM = {'partial': 'modelzoo.layers.norms.batchnorm:BatchNorm', 'epsilon': 1e-3, 'momentum': 0.9997}
SIZES = {'depths': (1, 2, 1), 'width': 0.125, 'stem_stride': 1, 'aligned': True}
BACKBONE = base.backbone('inception_resnet_v2')
LINEAR = {'interpolation': 'bilinear'}
SMALL = BACKBONE | SIZES
SMALL_V4 = base.backbone('inception_v4') | SIZES
TINY = SMALL | {'depths': (1, 1, 1), 'width': 1 / 32, 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network."""
    optimizer = {
        'partial': 'methods.optim.rmsprop:rmsprop',
        'schedule': base.staircase(0.045, tuple(map(float, range(2, 160, 2))), factor=0.94),
        'decay': 0.9,
        'momentum': 0.9,
        'eps': 1.0,
        'weight_decay': 4e-5,
    }
    config = base.imagenet(backbone | {'dropout': 0.2}, optimizer, epochs=160.0, batch_size=640, image_size=299)
    config['task']['inner']['label_smoothing'] = 0.1
    config['data']['train_crop'] |= LINEAR | {'area': (0.05, 1.0), 'antialias': False}
    config['data']['eval_crop'] |= LINEAR
    scale = base.normalize(base.HALF, base.HALF)
    distort = {'fn': 'methods.color:ColorDistortion'}
    return config | {'train_transforms': [distort, scale], 'eval_transforms': [scale]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'norm': PUBLISHED_NORM, 'dtype': 'bfloat16'}),
    digits=base.digits(SMALL, ema=None),
    v4_digits=base.digits(SMALL_V4, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
