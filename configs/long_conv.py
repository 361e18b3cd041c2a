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
SMALL = BACKBONE | {'width': 64, 'depth': 2}
TINY = BACKBONE | {'width': 8, 'depth': 2, 'drop_path': 0.1}


def recipe(backbone):
    """The published run of a network, which reads pixels in rows."""
    optimizer = base.apart(base.adamw(peak=0.01, warmup_epochs=1.0, weight_decay=0.05), 'mixer/kernel$', rate=0.1)
    return base.cifar10(backbone, optimizer, epochs=200.0, batch_size=50)


get_config = base.presets(
    cifar10=recipe(BACKBONE),
    digits=base.digits(SMALL | {'mixer': {'places': 64, 'bidirectional': True}}),
    fashion_mnist=base.fashion_mnist(SMALL | {'mixer': {'places': 784, 'bidirectional': True}}),
    smoke=base.smoke(recipe(TINY)),
)
