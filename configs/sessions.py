"""Class-incremental digits: two classes a session, with a few exemplars of earlier ones, and the two bounds.

iCaRL: Incremental Classifier and Representation Learning, Rebuffi et al., 2017, https://arxiv.org/abs/1611.07725, for
the protocol; Three scenarios for continual learning, van de Ven and Tolias, 2019, https://arxiv.org/abs/1904.07734.

    python train.py --config configs/sessions.py:digits --workdir runs/sessions
    python train.py --config configs/sessions.py:digits_finetuning --workdir runs/sessions_finetuning
    python train.py --config configs/sessions.py:digits_joint --workdir runs/sessions_joint
    python train.py --config configs/sessions.py:digits_all --workdir runs/sessions_all

Published: no figure for this data. `digits` replays ten exemplars of each class, drawn at random, as half of each
batch, and `digits_union` shuffles them together with the new examples; `digits_finetuning` has none and forgets freely;
`digits_joint` has all examples of all classes so far. eval/accuracy is among the classes so far, eval/session0/accuracy
that of the first two digits. Another order of the classes and other exemplars: --config.data.seed=1.

`digits_all` has these four as stages and, as five runs one after the other, one whose exemplars are herded between its
sessions; comparison/sessions.md has the accuracies after each session, side by side.
"""

from longview.configs import base

SESSIONS, STEPS = 5, 100


MEMORY = {'memory': 10, 'replay': 0.5}

ADAMW = base.adamw(peak=0.01, warmup_epochs=0.5, end=1e-4, clip_norm=1.0)


def sessions(config, **memory):
    """The data of `config` in five sessions."""
    data = {'fn': 'data.sessions:Sessions', 'data': config['data'], 'parts': SESSIONS, 'steps': STEPS, 'seed': 0}
    return data | memory


def digits(**memory):
    """Five sessions on digits, the optimizer anew in each, evaluated at the end of each."""
    config = base.digits(base.RESNET, ema=None)
    task = {
        'fn': 'methods.continual.incremental:Incremental',
        'backbone': base.RESNET,
        'head': base.linear(),
        'class_sessions': {'data': 'class_sessions'},
        'label_smoothing': 0.0,
    }
    return config | {
        'task': task,
        'data': sessions(config, **memory),
        'optimizer': {'partial': 'methods.optim.restart:restarting', 'optimizer': ADAMW, 'every': STEPS},
        'batch_size': 64,
        'epochs': base.unset(float),
        'steps': SESSIONS * STEPS,
        'eval_every': STEPS,
        'best': 'eval/session',
    }


def herded():
    """The stages of sessions that are a run each, with exemplars that are herded behind each."""
    stages = {}
    for number in range(SESSIONS):
        scores = {'stage': f'herding{number - 1}', 'file': 'scores.npy'} if number else None
        run = digits(**MEMORY, scores=scores, first=number) | {'optimizer': ADAMW, 'steps': STEPS}
        if number:
            before = {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': f'session{number - 1}'}}
            run['task'] = {'fn': 'methods.start:Start', 'inner': run['task'], 'read': before}
        stages[f'session{number}'] = run
        if number < SESSIONS - 1:
            stages[f'herding{number}'] = herding(number, scores)
    return stages


def herding(number, before):
    """The computation that ranks the exemplars of a session's classes."""
    config = base.digits(base.RESNET)
    train = config | {'data': config['data'] | {'eval_split': 'train'}}
    return {
        'fn': 'methods.continual.herding:Herding',
        'run': {'stage': f'session{number}'},
        'data': sessions(train),
        'session': number,
        'count': MEMORY['memory'],
        'before': before,
    }


def compared():
    """All runs as stages, and their matrices beside each other."""
    runs = {
        'replay': digits(**MEMORY),
        'union': digits(memory=10),
        'finetuning': digits(),
        'joint': digits(cumulative=True),
    }
    each = {name: {'stage': name} for name in runs}
    each['herded'] = [{'stage': f'session{number}'} for number in range(SESSIONS)]
    stages = runs | herded() | {'comparison': {'fn': 'methods.continual.compare:Compare', 'runs': each}}
    return {'stages': stages, 'order': tuple(stages)}


get_config = base.presets(
    digits=digits(**MEMORY),
    digits_union=digits(memory=10),
    digits_finetuning=digits(),
    digits_joint=digits(cumulative=True),
    digits_all=compared(),
)
