"""MQAR: which mixers can recall, and at what width.

Zoology: Measuring and Improving Recall in Efficient Language Models, Arora et al., 2023,
https://arxiv.org/abs/2312.04927. Recipe: https://github.com/HazyResearch/zoology (Apache-2.0),
zoology/experiments/paper_configs/iclr24_zoology_figure2/configs.py.

    python train.py --config configs/mqar_zoology.py:paper_hyena --workdir runs/mqar_hyena
    python train.py --config configs/mqar_zoology.py:small_hyena --workdir runs/mqar_small_hyena \\
        --config.task.backbone.width=32 --config.seed=1

A preset is a size and a mixer (attention, attention_conv, based, based_conv, baseconv, hyena, h3, mamba, rwkv4; those
that end in _conv take turns with short convolutions, as in the reference's later runs). Published: figure 2; attention
solves all lengths at width 64, and of gated convolutions and RWKV the width that solves the task grows with
the length. The paper takes the best of four rates (1e-4 to 1e-2, even in their logarithm) and stops at 99 %; here one
rate is a preset, and a run goes to its end. Not expressed: dropout of 0.1. `small` is the same task in a minute of a
CPU core: 64 words, sequences of 16, four pairs. docs/results.md has the table.
"""

from longview.configs import base

MIXERS = ('attention', 'attention_conv', 'based', 'based_conv', 'baseconv', 'hyena', 'h3', 'mamba', 'rwkv4')
# Published as a parameter, but one that does not learn.
FROZEN = {'baseconv': (('positions', 0.0),)}


def network(mixer, *, vocabulary, places, width):
    return {
        'fn': 'modelzoo.sequence.zoology:zoology',
        'mixer': mixer,
        'width': width,
        'depth': 2,
        'vocabulary': vocabulary,
        'places': places,
        'mlp': False,
        'dtype': 'float32',
        'remat': False,
        'scan': False,
    }


def recall(mixer, *, vocabulary, length, pairs, train, test, width, peak, **rest):
    """A run on sequences of one length."""
    split = {'partial': 'data.mqar:mqar', 'vocabulary': vocabulary, 'length': length, 'pairs': pairs, 'power': 0.01}
    # The reference's seeds of the two sets for a run's seed of 123: data.mqar.segment_seeds.
    data = {
        'fn': 'input_pipeline:Words',
        'vocabulary': vocabulary,
        'train_split': split | {'examples': train, 'seed': 843_828_734},
        'eval_split': split | {'examples': test, 'seed': 3_062_119_789},
    }
    task = {
        'fn': 'methods.language:LanguageModel',
        'backbone': network(mixer, vocabulary=vocabulary, places=length, width=width),
        'head': {'fn': 'modelzoo.heads:Words', 'vocabulary': vocabulary},
    }
    optimizer = base.adamw(peak=peak, warmup_epochs=0.0, weight_decay=0.1)
    optimizer |= {'decay_rules': (('.*', 1.0),), 'rate_rules': FROZEN[mixer] if mixer in FROZEN else ()}
    return base.run(task, data, optimizer, **rest)


def paper(mixer):
    return recall(
        mixer,
        vocabulary=8192,
        length=64,
        pairs=4,
        train=100_000,
        test=3_000,
        width=128,
        peak=1e-3,
        epochs=64.0,
        batch_size=512,
    )


def small(mixer):
    return recall(
        mixer,
        vocabulary=64,
        length=16,
        pairs=4,
        train=20_000,
        test=1_000,
        width=16,
        peak=1e-2,
        steps=900,
        batch_size=128,
        eval_every=450,
        save_every=900,
        log_every=90,
    )


def smoke(mixer):
    return recall(
        mixer,
        vocabulary=32,
        length=16,
        pairs=2,
        train=64,
        test=16,
        width=8,
        peak=1e-3,
        steps=6,
        batch_size=16,
        eval_every=3,
        save_every=3,
        log_every=3,
    )


get_config = base.presets(
    **{f'{size.__name__}_{mixer}': size(mixer) for size in (paper, small, smoke) for mixer in MIXERS}
)
