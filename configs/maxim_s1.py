"""MAXIM-S1 takes noise out of images: a U-Net whose pixels are mixed by gated MLPs, in blocks and along a coarse grid.

MAXIM: Multi-Axis MLP for Image Processing, Tu et al., 2022, https://arxiv.org/abs/2201.02973.

    python train.py --config configs/maxim_s1.py --workdir runs/maxim
    python train.py --config configs/maxim_s1.py:digits --workdir runs/maxim_digits
    python train.py --config configs/maxim_s1.py:conv_digits --workdir runs/maxim_conv_digits

Published: 39.96 dB on the camera noise of SIDD, of MAXIM-S3. Not run here. The published code has no training; the
paper's is Adam with a rate of 2e-4 that falls to 1e-7 on a cosine, crops of 256 pixels, and the Charbonnier and
spectral losses at three stages and scales. Its pairs of images are no data set of TFDS: `imagenet` takes that optimizer
to photographs with normal noise of 25/255, in batches of 64, which is ours. `digits` has noise of 0.3 and a small
network, `conv_digits` the same without the multi-axis MLPs and with more channels, for 1.1 times the
multiply-adds.
"""

from longview.configs import base

NETWORK = {'fn': 'modelzoo.restorers.maxim:MAXIM', 'width': 32, 'stages': 1, 'scales': 3, 'dtype': 'float32'}
SMALL = NETWORK | {'width': 8, 'depth': 2, 'scales': 2, 'sides': (4, 2), 'groups': 1, 'bottoms': 1}
CONV = SMALL | {'width': 10, 'multi_axis': False}
UNIT = [base.normalize((0.0,), (1.0,))]


def denoise(network, data, deviation, optimizer, **run):
    """Restores images from 0 to 1 that have normal noise."""
    task = {
        'fn': 'methods.restore.regress:Regress',
        'network': network,
        'terms': {'charbonnier': 1.0, 'spectral': 0.1},
        'degrade': {'fn': 'methods.generate.disturbed:AddNoise', 'deviation': deviation},
    }
    return base.run(task, data, optimizer, train_transforms=UNIT, eval_transforms=UNIT, **run)


def small(network, dataset, **run):
    data = {'fn': 'input_pipeline:Images', 'dataset': dataset, 'data_dir': base.unset(str)}
    data |= {'train_split': 'train', 'eval_split': 'test'}
    optimizer = base.adamw(peak=2e-3, warmup_epochs=1, end=1e-5, weight_decay=0.0, clip_norm=1.0)
    return denoise(network, data, 0.3, optimizer, batch_size=64, best='eval/psnr', **run)


def recipe(network):
    """The optimizer that the paper names."""
    optimizer = base.adamw(peak=2e-4, warmup_epochs=0.0, end=1e-7, weight_decay=0.0)
    return denoise(network, base.imagenet_data(256), 25 / 255, optimizer, batch_size=64, epochs=10.0)


get_config = base.presets(
    imagenet=recipe(NETWORK),
    digits=small(SMALL, 'digits', epochs=30.0),
    conv_digits=small(CONV, 'digits', epochs=30.0),
    fashion_mnist=small(SMALL | {'sides': (8, 4)}, 'fashion_mnist', epochs=3.0),
    smoke=base.smoke(recipe(SMALL | {'stages': 2})),
)
