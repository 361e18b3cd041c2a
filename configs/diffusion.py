"""Denoising diffusion of digits: images are made of noise, class by class.

Denoising Diffusion Probabilistic Models, Ho et al., 2020, https://arxiv.org/abs/2006.11239, in the form of Elucidating
the Design Space of Diffusion-Based Generative Models, Karras et al., 2022, https://arxiv.org/abs/2206.00364.

    python train.py --config configs/diffusion.py:digits --workdir runs/diffusion
    python train.py --config configs/diffusion.py:digits --workdir runs/diffusion_1 --config.stages.diffusion.seed=1

Published: a Frechet distance (FID) of 1.79 on CIFAR-10, class by class. Not run here. Stages: `judge` is a classifier,
by whose features distances are measured; `diffusion` is trained without it and evaluated once, on as many samples as
the test split has images; `distances` says how far the images of that split are from themselves when disturbed, and how
far those of the training split are. Figures: eval/frechet of `diffusion`, and distances/distances.json. Samples are in
diffusion/pictures/samples, a row for each class.
"""

from longview.configs import base

# A pixel's over the training images, from 0 to 1.
MEAN, DEVIATION = 0.305, 0.376
ONCE = 10_000  # steps between evaluations: only after the last one
DATA = {'fn': 'input_pipeline:Images', 'dataset': 'digits'}
UNET = {
    'fn': 'modelzoo.denoisers.edm:UNet',
    'width': 24,
    'multiples': (1, 2),
    'depth': 1,
    'attention': (),
    'classes': {'data': 'num_classes'},
    'dropout': 0.0,
}
EDM = {
    'fn': 'methods.generate.diffusion:Diffusion',
    'network': UNET,
    'process': {'fn': 'methods.generate.process:Sigmas', 'mean': -0.5, 'deviation': 1.2},
    'prediction': {'fn': 'methods.generate.process:Preconditioned', 'data': 1.0},
    'sampler': {'partial': 'methods.generate.samplers:heun', 'steps': 16},
    'shape': {'data': 'image_shape'},
    'num_classes': None,
    'hidden': 0.0,
    'guidance': 1.0,
}


def judge():
    """A classifier of digits."""
    return base.digits(base.RESNET, ema=None) | {'eval_every': ONCE}


def diffusion():
    """EDM's process, averages of the weights, and the classifier's features of what they make."""
    again = {
        'fn': 'methods.start:again',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'judge'}},
    }
    averaged = {'fn': 'methods.ema:Ema', 'inner': EDM, 'decay': 0.998, 'warmup': True}
    transforms = [base.normalize((MEAN,), (DEVIATION,))]
    return base.run(
        {'fn': 'methods.generate.judged:Judged', 'inner': averaged, 'judge': again},
        DATA,
        base.adamw(peak=2e-3, warmup_epochs=2, end=1e-5, weight_decay=0.0, clip_norm=1.0),
        steps=1000,
        batch_size=64,
        eval_batch_size=360,
        eval_every=ONCE,
        best='eval/frechet',
        best_mode='min',
        pictures=10,
        train_transforms=transforms,
        eval_transforms=transforms,
    )


def distances():
    """Distances that those of samples are to be compared with; noise of a fifth of the range of a pixel."""
    noise = {'fn': 'methods.generate.disturbed:AddNoise', 'deviation': 0.2 / DEVIATION}
    black, white = (0 - MEAN) / DEVIATION, (1 - MEAN) / DEVIATION
    replaced = {'fn': 'methods.generate.disturbed:ReplacePixels', 'share': 0.2, 'low': black, 'high': white}
    return {
        'fn': 'methods.generate.disturbed:Distances',
        'judge': {'stage': 'judge'},
        'others': {'training_split': DATA | {'eval_split': 'train'}},
        'disturbed': {'noise': noise, 'replaced': replaced},
    }


def staged():
    stages = {'judge': judge(), 'diffusion': diffusion(), 'distances': distances()}
    return {'stages': stages, 'order': tuple(stages)}


get_config = base.presets(digits=staged())
