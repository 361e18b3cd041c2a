"""MAE: features from painting hidden patches, judged by a linear probe that learns along.

Masked Autoencoders Are Scalable Vision Learners, He et al., 2021, https://arxiv.org/abs/2111.06377.

    python train.py --config configs/mae.py:digits --workdir runs/mae_digits
    python train.py --config configs/mae.py:fashion_mnist --workdir runs/mae_fashion

Published: 87.8 % top-1 on ImageNet-1k with a ViT-H fine-tuned at 448 pixels after 1,600 epochs of painting. Not run
here. The small presets hide as much of the image, 75 %. Patches of digits have four pixels, and each by itself
normalized loses what there is to see: pixels are painted as they are.
"""

from longview.configs import base


def painted(config):
    """The objective in place of the labels, and the probe on top."""
    network = {
        'fn': 'methods.ssl.masked:Autoencoder',
        'backbone': config['task']['backbone'],
        'width': 32,
        'depth': 1,
        'heads': 2,
        'ratio': 0.75,
    }
    inner = {'fn': 'methods.ssl.masked:MaskedAutoencoder', 'network': network, 'normalize_patches': False}
    task = {
        'fn': 'methods.evaluate.linear_probe:LinearProbe',
        'inner': inner,
        'head': base.linear(),
    }
    return config | {'task': task, 'best': 'eval/probe_accuracy'}


get_config = base.presets(
    digits=painted(base.digits(base.VIT | {'patch': 2, 'depth': 2}, epochs=200.0, ema=None)),
    fashion_mnist=painted(base.fashion_mnist(base.VIT | {'patch': 4, 'depth': 3}, ema=None)),
)
