"""Few labels: features learnt without any, then a linear probe and fine-tuning with five labelled examples a class.

A Simple Framework for Contrastive Learning of Visual Representations, Chen et al., 2020,
https://arxiv.org/abs/2002.05709: features are judged by a linear classifier on the frozen backbone, and by fine-tuning
the whole network with a small part of the labels.

    python train.py --config configs/few_labels.py:digits --workdir runs/few_labels
    python train.py --config configs/few_labels.py:digits --workdir runs/few_labels_1 --config.stages.simclr.seed=1

Published: 85.8 % top-5 on ImageNet-1k from 1 % of its labels, ResNet-50 of four times the width. Not run here. Stages:
`simclr` sees all 1,438 images and no label; `probe` and `tuned` begin with its backbone and see 50 labelled images;
`untrained` is the same network after some steps without a rate, for its batch statistics; `untrained_probe` and
`untrained_tuned` begin with that. `table` has the four beside each other. All share one seed, by which the labelled
images are drawn too.
"""

from ml_collections import config_dict

from longview.configs import base

ONCE = 10_000  # steps between evaluations: only after the last one


def contrasted(config):
    """SimCLR in place of the labels."""
    chain = [
        {'fn': 'methods.ssl.views:Crop', 'size': (8, 8), 'area': (0.4, 1.0)},
        {'fn': 'methods.ssl.views:Jitter', 'strength': 0.4},
        *config['train_transforms'],
    ]
    transforms = [{'fn': 'methods.ssl.views:Views', 'chains': [chain, chain]}, *config['train_transforms']]
    task = {
        'fn': 'methods.ssl.simclr:SimClr',
        'backbone': config['task']['backbone'],
        'temperature': 0.2,
        'projector': {'fn': 'methods.ssl.parts:Projector', 'widths': (128, 64)},
    }
    return config | {
        'task': task,
        'train_transforms': transforms,
        'eval_transforms': transforms,
        'batch_size': 256,
        'best': 'eval/loss',
        'best_mode': 'min',
    }


def classifying(config, stage, **optimizer):
    """A linear head on the backbone of an earlier stage, and 50 labelled images."""
    network = {
        'fn': 'methods.start:again',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': stage}},
        'head': base.linear(),
    }
    labelled = {'fn': 'data.subset:Subset', 'data': config['data'], 'per_class': 5, 'seed': config['seed']}
    return config | {
        'task': {'fn': 'methods.supervised:Supervised', 'network': network},
        'data': labelled,
        'optimizer': config['optimizer'] | optimizer,
        'batch_size': 50,
        'epochs': base.unset(float),
        'steps': 300,
    }


def frozen(config):
    """`config` with all but the head as it is."""
    task = {'fn': 'methods.freeze:Freeze', 'inner': config['task'], 'pattern': 'backbone/.*'}
    return config | {'task': task}


def still(config, steps):
    """`config` at no rate: only batch statistics move."""
    return config | {
        'optimizer': config['optimizer'] | {'rate_rules': (('.*', 0.0),)},
        'epochs': base.unset(float),
        'steps': steps,
    }


def staged(epochs):
    """Epochs of SimCLR."""
    config = base.digits(base.RESNET, epochs=epochs, ema=None)
    config |= {'seed': config_dict.FieldReference(0), 'eval_every': ONCE, 'save_every': ONCE, 'log_every': 100}
    schedule = config['optimizer']['schedule'] | {'peak': 1e-2, 'end': 0.0, 'warmup_epochs': 0.0}
    runs = {'simclr': contrasted(config), 'untrained': still(contrasted(config), steps=40)}
    judged = {}
    for name, prefix in (('simclr', ''), ('untrained', 'untrained_')):
        judged[f'{prefix}probe'] = frozen(classifying(config, name, schedule=schedule, weight_decay=0.0))
        judged[f'{prefix}tuned'] = classifying(config, name, schedule=schedule)
    table = {'fn': 'methods.table:Table', 'runs': {name: {'stage': name} for name in judged}}
    return {'stages': runs | judged | {'table': table}, 'order': (*runs, *judged, 'table')}


get_config = base.presets(digits=staged(epochs=80.0))
