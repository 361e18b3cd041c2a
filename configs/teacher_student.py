"""Teacher, then student: a small network learns from a hundred images, by a teacher's softened answers or by labels.

Distilling the Knowledge in a Neural Network, Hinton et al., 2015, https://arxiv.org/abs/1503.02531, section 6: soft
targets keep a student from overfitting few examples.

    python train.py --config configs/teacher_student.py:digits --workdir runs/taught
    python train.py --config configs/teacher_student.py:digits --workdir runs/taught_1 --config.stages.teacher.seed=1

Published: on speech, a student with 3 % of the training frames has 57.0 % of the test frames right by soft targets and
44.5 % by labels; with all frames 58.9 %. Not run here. Stages: `teacher` sees all 1,438 images; `taught` and `alone`,
the same smaller network from the same weights, see ten images a class in as many steps, with the teacher's answers at
temperature 4 and with the labels; `table` has the three beside each other. All share one seed, by which the hundred
images are drawn too.
"""

from ml_collections import config_dict

from longview.configs import base

ONCE = 10_000  # steps between evaluations: only after the last one
STUDENT = base.RESNET | {'stem_width': 8, 'widths': (16, 32, 64)}


def learning(config, label_weight):
    """The student with the teacher of that stage; a `label_weight` of 1 leaves nothing of it in the loss."""
    teacher = {
        'fn': 'methods.start:again',
        'read': {'fn': 'runtime.checkpoint:Best', 'workdir': {'stage': 'teacher'}},
    }
    task = {
        'fn': 'methods.distill.logits:Distill',
        'student': {'fn': 'modelzoo.heads:Classifier', 'backbone': STUDENT, 'head': base.linear()},
        'teachers': [teacher],
        'temperature': 4.0,
        'label_weight': label_weight,
    }
    few = {'fn': 'data.subset:Subset', 'data': config['data'], 'per_class': 10, 'seed': config['seed']}
    return config | {'task': task, 'data': few, 'batch_size': 100, 'epochs': base.unset(float), 'steps': 300}


def staged():
    config = base.digits(base.RESNET, ema=None)
    config |= {'seed': config_dict.FieldReference(0), 'eval_every': ONCE, 'save_every': ONCE, 'log_every': 100}
    runs = {
        'teacher': config,
        'taught': learning(config, label_weight=0.0),
        'alone': learning(config, label_weight=1.0),
    }
    table = {'fn': 'methods.table:Table', 'runs': {name: {'stage': name} for name in runs}}
    return {'stages': runs | {'table': table}, 'order': (*runs, 'table')}


get_config = base.presets(digits=staged())
