"""SGConv on images as sequences of pixels.

What Makes Convolutional Models Great on Long Sequence Modeling?, Li et al., 2022, https://arxiv.org/abs/2210.09298.
The code published with it has the layer alone (https://github.com/ctlllll/SGConv); the network and the recipe are those
of https://github.com/state-spaces/s4 (Apache-2.0), example.py.

    python train.py --config configs/sgconv.py --workdir runs/sgconv
    python train.py --config configs/sgconv.py:digits --workdir runs/sgconv_digits

Published: none for this network; the paper's on CIFAR-10 are of larger ones. Not run here: `cifar10` is TFDS's, which
`python -m longview.data.prepare cifar10` prepares where TensorFlow is installed. 100 epochs of batches of 64, a rate of
0.01 along a cosine, a tenth of it and no decay for the kernels (the layer's own rate of 0.001), AdamW with a decay of
0.01. Not expressed: dropout of 0.1.
"""

from longview.configs import base

BACKBONE = {
    'fn': 'modelzoo:backbone',
    'variant': 'sgconv_example',
    'width': 128,
    'depth': 4,
    'mixer': {'places': 1024, 'band': 64, 'bidirectional': True},
    'drop_path': 0.0,
    'dtype': 'float32',
}


def recipe(backbone, data):
    """The published run of a network."""
    optimizer = base.adamw(peak=0.01, warmup_epochs=0.0, weight_decay=0.01)
    optimizer = base.apart(optimizer, 'band[0-9]+/kernel$', rate=0.1)
    return base.cifar10(base.supervised(backbone, 10, ema=None), data, optimizer, epochs=100.0, batch_size=64)


def get_config(preset=None):
    """The presets are those of configs/base.py, with CIFAR-10 in the place of ImageNet; pixels are read in rows."""

    def cifar10():
        return recipe(BACKBONE, base.cifar10_data())

    def digits():
        shrunk = {'width': 64, 'depth': 2, 'mixer': {'places': 64, 'band': 8, 'bidirectional': True}}
        return base.digits(BACKBONE | shrunk)

    def fashion_mnist():
        shrunk = {'width': 64, 'depth': 2, 'mixer': {'places': 784, 'band': 32, 'bidirectional': True}}
        return base.fashion_mnist(BACKBONE | shrunk)

    def smoke():
        shrunk = BACKBONE | {'width': 8, 'depth': 2, 'drop_path': 0.1}
        return base.smoke(recipe(shrunk, base.imagenet_data()), image_size=32)

    return base.select(preset, {'cifar10': cifar10, 'digits': digits, 'fashion_mnist': fashion_mnist, 'smoke': smoke})
