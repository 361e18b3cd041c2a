"""SimCLR: features from telling an image's two views from all other images, judged by their nearest neighbours.

A Simple Framework for Contrastive Learning of Visual Representations, Chen et al., 2020,
https://arxiv.org/abs/2002.05709.

    python train.py --config configs/simclr.py:digits --workdir runs/simclr_digits
    python train.py --config configs/simclr.py:fashion_mnist --workdir runs/simclr_fashion

Published: 69.3 % top-1 of a linear probe on ImageNet-1k, ResNet-50, 1,000 epochs of batches of 4,096. Not run here. The
small presets have batches of 256 without flips of digits, and crops of 40 % of the image or more.
"""

from longview.configs import base


def contrasted(config, size, bank):
    """Two views in place of the labels, and the neighbours' vote on top."""
    chain = [
        {'fn': 'methods.ssl.views:Crop', 'size': (size, size), 'area': (0.4, 1.0)},
        {'fn': 'methods.ssl.views:Jitter', 'strength': 0.4},
        *config['train_transforms'],
    ]
    transforms = [{'fn': 'methods.ssl.views:Views', 'chains': [chain, chain]}, *config['train_transforms']]
    inner = {
        'fn': 'methods.ssl.simclr:SimClr',
        'backbone': config['task']['backbone'],
        'temperature': 0.2,
        'projector': {'fn': 'methods.ssl.parts:Projector', 'widths': (128, 64)},
    }
    task = {'fn': 'methods.evaluate.knn:NearestNeighbours', 'inner': inner, 'num_classes': None, 'bank': bank}
    return config | {
        'task': task,
        'train_transforms': transforms,
        'eval_transforms': transforms,
        'best': 'eval/knn_accuracy',
        'batch_size': 256,
    }


get_config = base.presets(
    digits=contrasted(base.digits(base.RESNET, epochs=40.0, ema=None), size=8, bank=1438),
    fashion_mnist=contrasted(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None), size=28, bank=8192),
)
