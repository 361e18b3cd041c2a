"""Orchid on associative recall: which kernels can look up a word, where one that never changes cannot.

Orchid: Flexible and Data-Dependent Convolution for Sequence Modeling, Karami and Ghodsi, 2024,
https://arxiv.org/abs/2402.18508, section 4.1.

    python train.py --config configs/orchid_recall.py:small_correlation --workdir runs/recall_correlation
    python train.py --config configs/orchid_recall.py:small_magnitude --workdir runs/recall_magnitude
    python train.py --config configs/orchid_recall.py:small_static --workdir runs/recall_static
    python train.py --config configs/orchid_recall.py:small_attention --workdir runs/recall_attention

Published: Orchid recalls in sequences of 128 words of a vocabulary of 20 as attention does, with correlations (type II)
in fewer epochs than with absolute values (type I). Here, as in configs/mqar_zoology.py, which has the source of the
task, a sequence asks for several words: `long` has 128 words of a vocabulary of 64, `small` 16. Two blocks without
feed-forward layers, in equal steps. Orchid sees the whole sequence; what is asked for stands nowhere behind a question.
"""

from longview.configs import base

ORCHID = {'partial': 'modelzoo.layers.mixers.orchid:Orchid', 'transform': 'dct', 'hidden': 16, 'dtype': 'float32'}
MIXERS = {
    'correlation': ORCHID | {'kind': 'correlation'},
    'magnitude': ORCHID | {'kind': 'magnitude'},
    'static': ORCHID | {'kind': None},
    'attention': {'partial': 'modelzoo.layers.mixers.causal_attention:CausalAttention', 'heads': 1},
}


def recall(name, *, vocabulary, length, pairs, train, test, width, peak, **rest):
    """A run on sequences of one length."""
    split = {'partial': 'data.mqar:mqar', 'vocabulary': vocabulary, 'length': length, 'pairs': pairs, 'power': 0.01}
    data = {
        'fn': 'input_pipeline:Words',
        'vocabulary': vocabulary,
        'train_split': split | {'examples': train, 'seed': 843_828_734},
        'eval_split': split | {'examples': test, 'seed': 3_062_119_789},
    }
    backbone = {
        'fn': 'modelzoo.sequence.trunk:Trunk',
        'mixer': MIXERS[name] | ({} if name == 'attention' else {'places': length}),
        'width': width,
        'depth': 2,
        'vocabulary': vocabulary,
        'places': length,
        'dtype': 'float32',
    }
    task = {
        'fn': 'methods.language:LanguageModel',
        'backbone': backbone,
        'head': {'fn': 'modelzoo.heads:Words', 'vocabulary': vocabulary},
    }
    optimizer = base.adamw(peak=peak, warmup_epochs=0.0, weight_decay=0.1)
    return base.run(task, data, optimizer, **rest)


def long(name):
    size = {'vocabulary': 64, 'length': 128, 'pairs': 4, 'train': 20_000, 'test': 1_000, 'width': 64}
    return recall(name, **size, peak=1e-3, epochs=64.0, batch_size=128)


def small(name):
    size = {'vocabulary': 64, 'length': 16, 'pairs': 4, 'train': 20_000, 'test': 1_000, 'width': 16}
    often = {'eval_every': 450, 'save_every': 900, 'log_every': 90}
    return recall(name, **size, peak=1e-2, steps=900, batch_size=128, **often)


def smoke(name):
    size = {'vocabulary': 32, 'length': 16, 'pairs': 2, 'train': 64, 'test': 16, 'width': 8}
    often = {'eval_every': 3, 'save_every': 3, 'log_every': 3}
    return recall(name, **size, peak=1e-3, steps=6, batch_size=16, **often)


get_config = base.presets(**{f'{size.__name__}_{name}': size(name) for size in (long, small, smoke) for name in MIXERS})
