"""Mamba: a language model whose blocks are selective state spaces, without attention.

Mamba: Linear-Time Sequence Modeling with Selective State Spaces, Gu & Dao, 2023, https://arxiv.org/abs/2312.00752.
Recipe: appendix E.2, table 12 (125M); https://github.com/state-spaces/mamba/issues/184, where an author adds that the
warm-up is a tenth of the steps and that batches have one size throughout.

    python train.py --config configs/mamba.py --dry_run --devices=256
    python train.py --config configs/mamba.py:smoke --workdir runs/mamba_smoke
    python train.py --config configs/mamba.py:long --dry_run --topology=v5e:16x16

``long`` is not the paper's recipe: the same network on one sequence of 2^20 words (data/induction.py, of that length in
the paper's section 4.1.2), which is split over all devices (docs/scale.md).

Published: 130 M parameters; on the Pile a perplexity of 10.56 after 300 B tokens. Not run here. 4,800 steps of 256
sequences of 2,048 words, 0.5 M tokens, for the scaling laws; the released weights saw 300 B tokens with the same
batches (--config.steps=572205). The rate rises for a tenth of the steps to 3e-3, five times GPT-3's, and falls to 1e-5
along a cosine; AdamW with moments of 0.9 and 0.95, a decay of 0.1 for all matrices but the decay rates, gradients cut
at a norm of 1. bfloat16 with float32 parameters.

The words are not the paper's: data/ has no reader of tokenized text, so the sequences are those of multi-query
associative recall (data/mqar.py), of the paper's length and vocabulary. A plan needs no more than these; whoever trains
names a function of their own in config.data.train_split.
"""

from longview.configs import base

BACKBONE = base.backbone('mamba_130m', fn='modelzoo.sequence.mamba:mamba', scan=False)
TINY = BACKBONE | {'width': 16, 'depth': 2, 'states': 4}


def language(backbone, *, vocabulary, length, examples, steps, batch_size, pairs=None, **rest):
    """A language model on sequences of one length: of recall or, without pairs, of induction."""
    kind = {'partial': 'data.induction:induction'} if pairs is None else {'partial': 'data.mqar:mqar', 'pairs': pairs}
    split = kind | {'vocabulary': vocabulary, 'length': length}
    data = {
        'fn': 'input_pipeline:Words',
        'vocabulary': vocabulary,
        'train_split': split | {'examples': examples, 'seed': 0},
        'eval_split': split | {'examples': batch_size, 'seed': 1},
    }
    task = {
        'fn': 'methods.language:LanguageModel',
        'backbone': backbone | {'vocabulary': vocabulary},
        'head': {'fn': 'modelzoo.heads:LanguageHead', 'vocabulary': vocabulary},
    }
    warmup = steps / 10 * batch_size / examples
    optimizer = base.adamw(
        peak=3e-3,
        warmup_epochs=warmup,
        end=1e-5,
        weight_decay=0.1,
        clip_norm=1.0,
        b2=0.95,
        decay_rules=(('A_log$', 0.0),),
    )
    return base.run(task, data, optimizer, steps=steps, batch_size=batch_size, **rest)


get_config = base.presets(
    paper=language(
        BACKBONE | {'dtype': 'bfloat16'},
        vocabulary=50280,
        length=2048,
        pairs=64,
        examples=256,
        steps=4800,
        batch_size=256,
    ),
    long=language(
        BACKBONE | {'dtype': 'bfloat16', 'remat': True, 'scan': True},
        vocabulary=50280,
        length=2**20,
        examples=1,
        steps=4800,
        batch_size=1,
        mesh=base.mesh() | {'data': 1, 'sequence': -1},
    ),
    smoke=language(
        TINY,
        vocabulary=32,
        length=16,
        pairs=2,
        examples=64,
        steps=6,
        batch_size=16,
        eval_every=3,
        save_every=3,
        log_every=3,
    ),
)
