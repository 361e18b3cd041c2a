"""Long sequences to classify or to continue, for a state space and for attention.

Long Range Arena: A Benchmark for Efficient Transformers, Tay et al., 2020, https://arxiv.org/abs/2011.04006.

    python train.py --config configs/long_range.py:listops --workdir runs/listops
    python train.py --config configs/long_range.py:listops_attention --workdir runs/listops_attention

Each task has a preset of its name for S4 and one with `_attention` behind it, for a Transformer with a causal mask:
`listops`, `pathfinder`, `pixels` (digits in a random order), `text` (marks that agree or not) and `language` (Python's
manual, of 256 bytes each). Published: the Transformer of the paper has 36.37 % on ListOps, 71.40 % on Pathfinder and
42.44 % on pixels of CIFAR-10; S4 (https://arxiv.org/abs/2111.00396) 59.60 %, 94.20 % and 88.65 %, figures that were not
compared with the papers' text. Not run here: data, networks and runs are smaller. ListOps in the published size has
`--config.data.train_split.examples=96000` and `--config.data.train_split.lengths='(500,2000)'`, and likewise in
`eval_split`.
"""

from longview.configs import base

S4 = {
    'fn': 'modelzoo:backbone',
    'variant': 's4_example',
    'width': 64,
    'depth': 2,
    'mixer': {'states': 32},
    'drop_path': 0.0,
    'dtype': 'float32',
}
ATTENTION = {
    'fn': 'modelzoo.sequence.trunk:Trunk',
    'width': 64,
    'depth': 2,
    'mixer': {
        'partial': 'modelzoo.layers.mixers.causal_attention:CausalAttention',
        'heads': 2,
        'rotary': 1e4,
    },
    'mlp': {'partial': 'modelzoo.layers.frame.mlp:Mlp'},
    'dtype': 'float32',
}
NETWORKS = {'': S4, '_attention': ATTENTION}
# Poles, P and B of S4 learn more slowly, and they and its step sizes do not decay.
_PARTS = 'log_A_real|A_imag|/P|/B'
SLOW = {'decay_rules': ((f'({_PARTS}|log_dt)$', 0.0),), 'rate_rules': ((f'({_PARTS})$', 0.1),)}
HALF = {'fn': 'methods.augment:Normalize', 'mean': (0.5,), 'std': (0.5,)}


def run(network, task, data, transforms=()):
    """A run of 20 epochs."""
    rules = SLOW if network is S4 else {}
    optimizer = base.adamw(peak=3e-3, warmup_epochs=1.0, end=3e-5, clip_norm=1.0, **rules)
    transforms = {'train_transforms': [*transforms], 'eval_transforms': [*transforms]}
    return base.run(task, data, optimizer, epochs=20.0, batch_size=32, **transforms)


def classes(network, split, num_classes, *, vocabulary=None, train, test, transforms=()):
    """Sequences with one label each."""
    words = {} if vocabulary is None else {'vocabulary': vocabulary}
    data = {
        'fn': 'input_pipeline:Arrays',
        'train_split': split | train,
        'eval_split': split | test,
        'num_classes': num_classes,
    }
    return run(network, base.supervised(network | words, ema=None), data, transforms)


def drawn(network, function, num_classes, *, vocabulary=None, transforms=(), **options):
    split = {'partial': function, 'seed': 0} | options
    parts = {'train': {'split': 'train', 'examples': 8000}, 'test': {'split': 'test', 'examples': 1000}}
    return classes(network, split, num_classes, vocabulary=vocabulary, transforms=transforms, **parts)


def listops(network):
    return drawn(network, 'data.listops:listops', 10, vocabulary=16, lengths=(20, 200))


def pathfinder(network):
    return drawn(network, 'data.pathfinder:pathfinder', 2, transforms=(HALF,), size=32)


def pixels(network):
    split = {'partial': 'data.pixels:digits', 'side': 8, 'order_seed': 0}
    return classes(network, split, 10, transforms=(HALF,), train={'test': False}, test={'test': True})


def text(network):
    return drawn(network, 'data.marks:marks', 2, vocabulary=128, lengths=(200, 400))


def language(network):
    split = {'partial': 'data.manual:manual', 'length': 256}
    data = {
        'fn': 'input_pipeline:Words',
        'vocabulary': 128,
        'train_split': split | {'split': 'train'},
        'eval_split': split | {'split': 'test'},
    }
    task = {
        'fn': 'methods.language:LanguageModel',
        'backbone': network | {'vocabulary': 128},
        'head': {'fn': 'modelzoo.heads:LanguageHead', 'vocabulary': 128},
    }
    return run(network, task, data)


TASKS = (listops, pathfinder, pixels, text, language)
get_config = base.presets(
    **{f'{task.__name__}{name}': task(network) for task in TASKS for name, network in NETWORKS.items()}
)
