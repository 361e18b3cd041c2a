"""A network with fewer hidden units than it was trained with: dense, cut, tuned; and as small from the beginning.

Pruning Filters for Efficient ConvNets, Li et al., 2017, https://arxiv.org/abs/1608.08710, for removing whole units and
training on; Rethinking the Value of Network Pruning, Liu et al., 2019, https://arxiv.org/abs/1810.05270, for the
comparison with the small network from random weights, trained as long in total.

    python train.py --config configs/smaller.py:digits --workdir runs/smaller
    python train.py --config configs/smaller.py:digits --workdir runs/smaller_1 --config.stages.dense.seed=1

Published: VGG-16 on CIFAR-10 has an error of 6.75 %, and of 6.60 % without 64 % of its parameters (Li et al.); from
random weights such networks reach as much (Liu et al.). Not run here. Stages: `dense`; `smaller` keeps a quarter of the
hidden units of each feed-forward layer; `cut` is that network as it is, evaluated after a step without a rate; `tuned`
trains it on; `scratch` is the same network from random weights, in as many steps as `dense` and `tuned` together.
`table` has the four beside each other. All share one seed.
"""

from ml_collections import config_dict

from longview.configs import base

ONCE = 10_000  # steps between evaluations: only after the last one
SHARE = 0.25
VIT = base.VIT | {'patch': 2, 'depth': 2}


def going_on(config, **rest):
    """From the network that stage `smaller` leaves."""
    network = {
        'fn': 'methods.start:again',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'smaller'}},
    }
    task = {'fn': 'methods.supervised:Supervised', 'network': network, 'label_smoothing': 0.1}
    return config | {'task': task} | rest


def small(config, epochs):
    """From random weights."""
    mlp = {'ratio': 4.0 * SHARE}
    task = config['task'] | {'backbone': config['task']['backbone'] | {'mlp': mlp}}
    return config | {'task': task, 'epochs': epochs}


def staged(dense, tuned):
    """Epochs of the dense network, and of what is left of it."""
    config = base.digits(VIT, epochs=dense, ema=None)
    config |= {'seed': config_dict.FieldReference(0), 'eval_every': ONCE, 'save_every': ONCE, 'log_every': 100}
    schedule = config['optimizer']['schedule']
    still = config['optimizer'] | {'rate_rules': (('.*', 0.0),), 'schedule': schedule | {'warmup_epochs': 0.0}}
    again = config['optimizer'] | {'schedule': schedule | {'warmup_epochs': 1.0}}
    smaller = {'fn': 'methods.prune.smaller:Smaller', 'run': {'stage': 'dense'}, 'share': SHARE}
    stages = {
        'dense': config,
        'smaller': smaller,
        'cut': going_on(config, optimizer=still, epochs=base.unset(float), steps=1),
        'tuned': going_on(config, optimizer=again, epochs=tuned),
        'scratch': small(config, epochs=dense + tuned),
    }
    table = {'fn': 'methods.table:Table', 'runs': {n: {'stage': n} for n in ('dense', 'cut', 'tuned', 'scratch')}}
    return {'stages': stages | {'table': table}, 'order': (*stages, 'table')}


get_config = base.presets(digits=staged(dense=60.0, tuned=20.0))
