"""Class-incremental digits: two classes a session, with a few exemplars of earlier ones, and the two bounds.

iCaRL: Incremental Classifier and Representation Learning, Rebuffi et al., 2017, https://arxiv.org/abs/1611.07725, for
the protocol; Three scenarios for continual learning, van de Ven and Tolias, 2019, https://arxiv.org/abs/1904.07734.

    python train.py --config configs/sessions.py:digits --workdir runs/sessions
    python train.py --config configs/sessions.py:digits_finetuning --workdir runs/sessions_finetuning
    python train.py --config configs/sessions.py:digits_joint --workdir runs/sessions_joint

Published: no figure for this data. `digits` replays ten exemplars of each class, drawn at random, as half of each
batch, and `digits_union` shuffles them together with the new examples; `digits_finetuning` has none and forgets freely;
`digits_joint` has all examples of all classes so far. eval/accuracy is among the classes so far, eval/session0/accuracy
that of the first two digits. Another order of the classes and other exemplars: --config.data.seed=1.
"""

from longview.configs import base

SESSIONS, STEPS = 5, 100


def digits(**memory):
    """Five sessions on digits, the optimizer anew in each, evaluated at the end of each."""
    config = base.digits(base.RESNET, ema=None)
    data = {
        'fn': 'data.sessions:Sessions',
        'data': config['data'],
        'parts': SESSIONS,
        'steps': STEPS,
        'seed': 0,
    }
    task = {
        'fn': 'methods.continual.incremental:Incremental',
        'backbone': base.RESNET,
        'head': base.linear(),
        'class_sessions': {'data': 'class_sessions'},
        'label_smoothing': 0.0,
    }
    adamw = base.adamw(peak=0.01, warmup_epochs=0.5, end=1e-4, clip_norm=1.0)
    return config | {
        'task': task,
        'data': data | memory,
        'optimizer': {'partial': 'methods.optim.restart:restarting', 'optimizer': adamw, 'every': STEPS},
        'batch_size': 64,
        'epochs': base.unset(float),
        'steps': SESSIONS * STEPS,
        'eval_every': STEPS,
        'best': 'eval/session',
    }


get_config = base.presets(
    digits=digits(memory=10, replay=0.5),
    digits_union=digits(memory=10),
    digits_finetuning=digits(),
    digits_joint=digits(cumulative=True),
)
