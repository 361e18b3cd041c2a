"""Long convolutions on images as sequences of pixels.

Simple Hardware-Efficient Long Convolutions for Sequence Modeling, Fu et al., 2023, https://arxiv.org/abs/2302.06646.
Recipe: https://github.com/HazyResearch/safari (Apache-2.0), configs/experiment/lra/long-conv-lra-cifar.yaml.

    python train.py --config configs/long_conv.py --workdir runs/long_conv
    python train.py --config configs/long_conv.py:digits --workdir runs/long_conv_digits

Published: in the paper's table of the Long Range Arena, for gray CIFAR-10. Not run here: `cifar10` is TFDS's, which
`python -m longview.data.prepare cifar10` prepares where TensorFlow is installed, and in colours. 200 epochs of batches
of 50, a rate of 0.01 after a warm-up along a cosine, a tenth of it and no decay for the taps, AdamW with a decay of
0.05. Not expressed: dropout of 0.1, of taps of 0.2; gray images; two kernels for each channel.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'long_conv_example',
    'width': 512,
    'depth': 6,
    'mixer': {'places': 1024, 'bidirectional': False},
    'drop_path': 0.0,
    'dtype': 'float32',
}


def recipe(backbone, data):
    """The published run of a network."""
    optimizer = base.apart(base.adamw(peak=0.01, warmup_epochs=1.0, weight_decay=0.05), 'mixer/kernel$', rate=0.1)
    return base.cifar10(base.supervised(backbone, 10, ema=None), data, optimizer, epochs=200.0, batch_size=50)


def get_config(preset=None):
    """The presets are those of configs/base.py, with CIFAR-10 in the place of ImageNet; pixels are read in rows."""

    def cifar10():
        return recipe(BACKBONE, base.cifar10_data())

    def digits():
        return base.digits(BACKBONE | {'width': 64, 'depth': 2, 'mixer': {'places': 64, 'bidirectional': True}})

    def fashion_mnist():
        return base.fashion_mnist(BACKBONE | {'width': 64, 'depth': 2, 'mixer': {'places': 784, 'bidirectional': True}})

    def smoke():
        shrunk = BACKBONE | {'width': 8, 'depth': 2, 'drop_path': 0.1}
        return base.smoke(recipe(shrunk, base.imagenet_data()), image_size=32)

    return base.select(preset, {'cifar10': cifar10, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
