"""SwAV: features from predicting one view's cluster from another view, judged by their nearest neighbours.

Unsupervised Learning of Visual Features by Contrasting Cluster Assignments, Caron et al., 2020,
https://arxiv.org/abs/2006.09882.

    python train.py --config configs/swav.py:digits --workdir runs/swav_digits
    python train.py --config configs/swav.py:fashion_mnist --workdir runs/swav_fashion

Published: 75.3 % top-1 of a linear probe on ImageNet-1k, ResNet-50, 800 epochs, two views of 224 pixels and six of 96.
Not run here. The small presets have two large views and two small ones, 30 prototypes and a queue of two batches. At
the published epsilon of 0.05 all projections of digits fall together, and the loss stays at log(30); they have 0.01.
"""

from longview.configs import base


def clustered(config, large, small, bank):
    """Views in place of the labels, and the neighbours' vote on top."""

    def chain(size, area):
        return [
            {'fn': 'methods.ssl.views:Crop', 'size': (size, size), 'area': area},
            {'fn': 'methods.ssl.views:Jitter', 'strength': 0.4},
            *config['train_transforms'],
        ]

    chains = [chain(large, (0.5, 1.0))] * 2 + [chain(small, (0.25, 0.5))] * 2
    transforms = [{'fn': 'methods.ssl.views:Views', 'chains': chains}, *config['train_transforms']]
    inner = {
        'fn': 'methods.ssl.swav:SwAV',
        'backbone': config['task']['backbone'],
        'prototypes': 30,
        'projector': {'fn': 'methods.ssl.parts:Projector', 'widths': (128, 64)},
        'views': 4,
        'temperature': 0.1,
        'epsilon': 0.01,
        'queue': 512,
        'queue_from': 50,
        'freeze': 10,
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
    digits=clustered(base.digits(base.RESNET, epochs=80.0, ema=None), large=8, small=6, bank=1438),
    fashion_mnist=clustered(
        base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None), large=28, small=16, bank=8192
    ),
)
