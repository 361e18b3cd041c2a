"""NF-ResNet-50: a residual network without normalization.

Characterizing signal propagation to close the performance gap in unnormalized ResNets, Brock, De and Smith, 2021,
https://arxiv.org/abs/2101.08692. Recipe: https://github.com/google-deepmind/deepmind-research (Apache-2.0),
nfnets/experiment.py.

    python train.py --config configs/nf_resnet50.py --workdir runs/nf_resnet50
    python train.py --config configs/nf_resnet50.py:digits --workdir runs/nf_resnet50_digits

Published: the weights that timm trained by another recipe have 80.66 % top-1 on ImageNet-1k at 288 px. Not run here.
90 epochs of batches of 1,024, 5 epochs of warm-up to a rate of 0.1 per 256 images, a cosine to 0, SGD with a Nesterov
momentum of 0.9, a decay of 1e-4 on kernels, labels smoothed by 0.1. bfloat16 with float32 parameters
(--config.task.backbone.dtype=float32 for the published precision).
"""

from longview.configs import base

BACKBONE = base.backbone('nf_resnet50', fn='modelzoo.vision.nfnet:nfnet')
SMALL = BACKBONE | {'stem_stride': 1, 'stem_width': 32, 'depths': (1, 1, 1), 'widths': (64, 128, 256)}
TINY = BACKBONE | {'stem_width': 16, 'depths': (1, 1), 'widths': (32, 64), 'drop_path': 0.1}


def recipe(backbone, warmup_epochs):
    """The published run of a network."""
    optimizer = base.sgd(base.cosine(0.4, warmup_epochs=warmup_epochs))
    config = base.imagenet(backbone, optimizer, epochs=90.0, ema=None)
    return config | {'task': config['task'] | {'label_smoothing': 0.1}, 'train_transforms': [base.normalize()]}


get_config = base.presets(
    imagenet=recipe(BACKBONE | {'dtype': 'bfloat16'}, warmup_epochs=5.0),
    digits=base.digits(SMALL),
    fashion_mnist=base.fashion_mnist(SMALL | {'stem_stride': 4}),
    smoke=base.smoke(recipe(TINY, warmup_epochs=0.1)),
)
