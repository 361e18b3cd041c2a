"""What users get wrong: each mistake ends a run in one sentence with its cause, the value and the way out.

Nothing is compiled for these, and no workdir is touched. Mistakes on the command line: test_commandline.py; in data:
tests/data; in workdirs: test_train.py and tests/runtime/test_workdir.py; in stages: test_stages.py.
"""

import functools

import pytest
from ml_collections import ConfigDict

from longview import train
from longview.configs import base
from longview.runtime import commandline
from tests import runs, toys

DIGITS = {'fn': 'input_pipeline:Images', 'dataset': 'digits'}
TRAIN = DIGITS | {'eval_split': 'train'}
RANDOM = {'fn': 'data.images:RandomResizedCrop', 'flip': True, 'interpolation': 'bicubic'}
NO_FILE = {'fn': 'modelzoo:create_model', 'name': 'vit_test', 'weights': '/nowhere/w.safetensors'}
MASKED = {
    'fn': 'methods.ssl.masked:MaskedAutoencoder',
    'network': {
        'fn': 'methods.ssl.masked:Autoencoder',
        'backbone': {'fn': 'modelzoo:backbone', 'variant': 'resnet_test'},
        'width': 8,
        'depth': 1,
        'heads': 1,
    },
}
CONTRAST = {
    'fn': 'methods.ssl.simclr:SimClr',
    'backbone': toys.NET,
    'projector': {'fn': 'methods.ssl.parts:Projector', 'widths': (8, 4)},
}

# Keys of the config with their wrong values, and what is said.
CONFIG = [
    ({'batch_size': 0}, 'config.batch_size is 0: it must be at least 1'),
    ({'batch_size': 63}, 'config.batch_size is 63, which does not divide over the 8 devices'),
    ({'steps': None}, 'config gives neither epochs nor steps: give one of them'),
    ({'steps': 0}, 'the run has 0 steps (1438 examples in batches of 64): raise'),
    ({'stepz': 3}, "takes no 'stepz'; did you mean 'steps'?"),
    ({'accumulate': 0}, 'config.accumulate is 0: it must be at least 1'),
    ({'accumulate': 5}, 'a batch of 64 does not divide into 5 microbatches: change'),
    ({'accumulate': 2, 'task': CONTRAST}, 'SimClr compares all examples of a batch with each other'),
    ({'best': 'eval/acuracy'}, "config.best is 'eval/acuracy', which the task does not score; it scores eval/accuracy"),
    ({'best_mode': 'maximum'}, "config.best_mode is 'maximum': it must be 'max' or 'min'"),
    ({'eval_batch_size': 10}, 'config.eval_batch_size is 10, which does not divide over the 8 devices'),
    ({'keep': 0}, 'config.keep is 0: it must be at least 1'),
    ({'keep_every': 0}, 'config.keep_every is 0: it must be at least 1, or None'),
    ({'patience': 0}, 'config.patience is 0: it must be at least 1, or None'),
    ({'log_every': 0}, 'config.log_every is 0: it must be at least 1'),
    ({'pictures': -1}, 'config.pictures is -1: it must be at least 0'),
    ({'seed': -1}, 'config.seed is -1: use 0 <= seed < 2**32'),
    ({'matmul_precision': 'hihg'}, "config.matmul_precision is 'hihg': use one of default, high, highest"),
    ({'evals': {'a/b': {'fn': 'runtime.plan:Eval'}}}, "config.evals has the name 'a/b': use letters"),
    ({'evals': {'a': {'fn': 'runtime.plan:Eval', 'every': 0}}}, 'every of an evaluation is 0: it must be'),
    ({'support': DIGITS | {'eval_split': 'nope'}}, "The data set 'digits' has no split 'nope'; it has train, test"),
    ({'mesh.data': 3}, 'mesh data=3 x fsdp=1 x sequence=1 x tensor=1 does not fit 8 devices: choose'),
    ({'mesh.dta': 3}, "takes no 'dta'; did you mean 'data'?"),
    (
        {'mesh.rules': (('kernl', (None, 'tensor')),)},
        "'kernl' matches no array of this run; paths look like 'variables/",
    ),
    (
        {'mesh.rules': (('kernel', (None, 'tensr')),)},
        "'kernel' names the axis 'tensr'; the mesh has data, fsdp, sequence, tensor",
    ),
    ({'kernels.gal': 'xla'}, "there is no op 'gal' to prefer an implementation of; did you mean 'gla'?"),
    (
        {'order': {'fn': 'methods.order:Neighbours', 'every': 0, 'data': DIGITS}},
        'Neighbours.every is 0: it is a number',
    ),
    (
        {'order': {'fn': 'methods.order:Neighbours', 'every': 5, 'data': TRAIN, 'feature': 'poled'}},
        "Neighbours.feature is 'poled', and the task predicts",
    ),
    ({'data.dataset': 'digit'}, "No data set is called 'digit', and"),
    ({'data.dataset': './nowhere'}, 'There is no folder ./nowhere; wanted FOLDER/SPLIT/CLASS/IMAGE'),
    ({'data.datset': 'x'}, "takes no 'datset'; did you mean 'dataset'?"),
    ({'data.train_split': 'trian'}, "The data set 'digits' has no split 'trian'; it has train, test"),
    ({'data.eval_split': 'val'}, "The data set 'digits' has no split 'val'; it has train, test"),
    ({'data.train_split': 'train[:200%'}, "'train[:200%' is no slice of a split; write it like"),
    ({'data.image_size': 0}, 'The size 0 of images is neither the side of a square nor (height, width)'),
    ({'data.train_crop': {'fn': 'data.images:RandomCrop'}}, "has no 'RandomCrop'; did you mean 'RandomResizedCrop'?"),
    (
        {'data.train_crop': RANDOM | {'interpolation': 'cubic'}},
        "train_crop.interpolation is 'cubic': use one of nearest",
    ),
    ({'data.eval_crop': RANDOM}, 'draws random numbers; evaluation wants a fixed one: CenterCrop or Resize'),
    ({'data.train_crop': RANDOM, 'data.in_memory': True}, 'in_memory=True does not go with train_crop'),
    ({'data': {'fn': 'data.subset:Subset', 'data': DIGITS, 'keep': 0.5}}, 'Subset wants one of indices, scores and'),
    (
        {'data': {'fn': 'data.subset:Subset', 'data': DIGITS, 'per_class': 9999}},
        'the class 0 has 151 examples: use 1 to',
    ),
    (
        {'data': {'fn': 'data.subset:Subset', 'data': DIGITS, 'scores': '/nowhere.npy', 'keep': 0.5}},
        'Subset.scores names /nowhere.npy, and there is no such file: write it',
    ),
    (
        {'data': {'fn': 'data.sessions:Sessions', 'data': DIGITS, 'parts': 3, 'steps': 9}},
        '10 classes do not divide into',
    ),
    (
        {'data': {'fn': 'data.balanced:Balanced', 'data': {'fn': 'data.balanced:Balanced', 'data': DIGITS}}},
        'Balanced around Balanced would lose the order of Balanced',
    ),
    (
        {'data': {'fn': 'data.mixture:Mixture', 'parts': [DIGITS], 'weights': [1.0, 2.0]}},
        'Mixture has 1 parts and weights',
    ),
    (
        {'data.dataset': {'stage': 'teacher'}},
        "config.data.dataset names the stage 'teacher', and this config has no stages",
    ),
    ({'task': None}, 'config.task is a NoneType, and a methods.task.Task is wanted'),
    ({'task': MASKED}, 'MaskedAutoencoder needs a TokenBackbone (embed, positions and encode), and ResNet has'),
    ({'task.fn': 'methods.supervised:Supervise'}, "has no 'Supervise'; did you mean 'Supervised'?"),
    ({'task.fn': 'methods.supervise:Supervised'}, "there is no module 'longview.methods.supervise'; did you mean"),
    ({'task.fn': 'Supervised'}, "'Supervised' is not of the form 'package.module:name'"),
    ({'task.smoothing': 0.1}, "takes no 'smoothing'; did you mean 'label_smoothing'?"),
    ({'task.label_smoothing': 2.0}, 'Supervised.label_smoothing is 2.0: it is a share, from 0 to 1'),
    ({'task.head': None}, 'Supervised has a backbone without a head: give `head` too'),
    ({'task.head.num_classes': 5}, 'the head gives 5 logits and the data set has 10 classes: set --config.task.head'),
    ({'task.head': base.linear(-1)}, 'Linear.num_classes is -1: it must be at least 1'),
    ({'task.head.num_classes': {'data': 'classes'}}, "asks the data set for 'classes', which Images does not have"),
    (
        {'task': {'fn': 'methods.supervised:Supervised', 'network': NO_FILE}},
        "weights '/nowhere/w.safetensors' are neither",
    ),
    ({'optimizer.fn': 'methods.optim.adamw:adamw'}, "has both 'fn' (a call) and 'partial' (no call yet); keep one"),
    ({'optimizer.schedule.peek': 0.1}, "takes no 'peek'; did you mean 'peak'?"),
    ({'optimizer.schedule.warmup_epochs': 1e9}, 'is longer than the run of 8 steps: shorten warmup_epochs'),
    ({'optimizer.rate_rules': (('hiden', 0.1),)}, "rate_rules: 'hiden' matches no parameter; the first is 'backbone/"),
    ({'optimizer.decay_rules': (('hiden', 0.1),)}, "decay_rules: 'hiden' matches no parameter; the first is"),
    ({'optimizer.layer_decay': 0.5}, 'Net does not say the depth of its layers'),
    ({'train_transforms': [{'fn': 'methods.augment:Normalise'}]}, "has no 'Normalise'; did you mean 'Normalize'?"),
    ({'train_transforms': [base.normalize()]}, 'Normalize has 3 means and 3 deviations for images of 1 channels; give'),
    ({'train_transforms': [base.normalize((0.5,), (0.0,))]}, 'Normalize.std is (0.0,), by which images are divided'),
    (
        {'train_transforms': [base.mixup(alpha=0.2)]},
        'Mix wants normalized images and got uint8: list it after Normalize',
    ),
]

# Fields of a published network.
BACKBONE = [
    ({'variant': 'vit_smal_patch16_224'}, "no variant 'vit_smal_patch16_224'; did you mean 'vit_small_patch16_224'?"),
    ({'widht': 8}, "ViT has no field 'widht'; did you mean 'width'?"),
    ({'patch': 3}, 'image 8x8 does not divide by patch 3: use e.g. 6x6'),
    ({'heads': 5}, 'width 64 does not divide into 5 heads: change width or heads'),
    ({'dtype': 'float31'}, "ViT.dtype is 'float31', which is no array type: use float32, bfloat16 or float16"),
]

# Wrappers around the task.
WRAPPERS = [
    ({'fn': 'methods.ema:Ema', 'decay': 1.5}, 'Ema.decay is 1.5: it must be at least 0 and below 1'),
    ({'fn': 'methods.prune.magnitude:Prune', 'every': 9, 'amount': 1.5}, 'Prune.amount is 1.5: it is a share, above 0'),
    (
        {'fn': 'methods.prune.magnitude:Prune', 'every': 9, 'pattern': 'no'},
        "Prune: 'no' matches no parameter; the first",
    ),
    ({'fn': 'methods.peft.low_rank:LowRank', 'rank': 0}, 'LowRank.rank is 0: it must be at least 1'),
    ({'fn': 'methods.peft.low_rank:LowRank', 'rank': 99}, 'has shape (64, 32), which has no rank 99: lower the rank'),
    ({'fn': 'methods.quant.fake:FakeQuant', 'bits': 0}, 'FakeQuant.bits is 0: integers of 2 to 8 bits are supported'),
    ({'fn': 'methods.freeze:Freeze', 'pattern': 'stem/.*'}, "Freeze: 'stem/.*' matches no parameter; the first is"),
    (
        {'fn': 'methods.start:Start', 'read': {'fn': 'runtime.checkpoint:Best', 'workdir': '/nowhere'}},
        '/nowhere/best holds no checkpoint: train that run first, or name the workdir of another',
    ),
    (
        {'fn': 'methods.optim.loss_scale:LossScale', 'initial': 0.0},
        'LossScale.initial is 0.0: it must be from 1 to 2^24',
    ),
]


def said(config, tmp_path):
    """Returns the sentence that a run of the config ends in."""
    workdir = tmp_path / 'run'
    with runs.quickly(), pytest.raises((train.RunError, ValueError, TypeError, OSError)) as end:
        train.train(config, workdir)
    assert not list(workdir.glob('*/*')) and not (workdir / 'config.json').exists(), 'the workdir belongs to nobody yet'
    sentence = commandline.sentence(end.value)
    assert len(sentence) < 330 and not sentence.startswith('['), sentence
    return sentence


def changed(tree, key, value):
    """Returns a tree with another value at a dotted key."""
    first, _, rest = key.partition('.')
    return tree | {first: changed(tree.get(first, {}), rest, value) if rest else value}


def name(row):
    return ' '.join(f'{key}={value}' for key, value in row.items())[:60] if isinstance(row, dict) else ''


@pytest.mark.parametrize('changes, words', CONFIG, ids=name)
def test_a_config(changes, words, tmp_path):
    tree = functools.reduce(lambda tree, item: changed(tree, *item), changes.items(), toys.config().to_dict())
    assert words in said(ConfigDict(tree), tmp_path)


@pytest.mark.parametrize('fields, words', BACKBONE, ids=name)
def test_a_network(fields, words, tmp_path):
    node = base.digits(base.VIT | {'patch': 2, 'depth': 1} | fields, ema=None)
    assert words in said(ConfigDict(node), tmp_path)


@pytest.mark.parametrize('wrapper, words', WRAPPERS, ids=name)
def test_a_method(wrapper, words, tmp_path):
    tree = toys.config().to_dict()
    assert words in said(ConfigDict(tree | {'task': wrapper | {'inner': tree['task']}}), tmp_path)
