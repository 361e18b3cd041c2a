"""What a config leaves to its data set."""

import types

import pytest

from longview.configs import vig_s
from longview.runtime.from_data import filled
from longview.runtime.plan import read_run
from longview.runtime.resolve import ConfigError, places


class Three:
    num_classes = 3
    num_train = 50


class Numbers:
    num_classes = None


def test_a_number_of_classes_and_what_is_asked_for_by_name() -> None:
    config = {
        'head': {'num_classes': None, 'bias': None},
        'own': ({'num_classes': 7},),
        'size': [{'data': 'num_train'}],
    }
    before = repr(config)
    wanted = {'head': {'num_classes': 3, 'bias': None}, 'own': ({'num_classes': 7},), 'size': [50]}
    assert filled(config, Three()) == wanted and repr(config) == before


def test_other_data_sets_stay_as_they_are() -> None:
    config = {'evals': {'x': {'fn': 'e', 'data': {'fn': 'd', 'num_classes': None}, 'support': {'num_classes': None}}}}
    assert filled(config, Three()) == config


@pytest.mark.parametrize(
    'config, data, words',
    [
        (
            {'a': [{'num_classes': None}]},
            Numbers(),
            r'^config\.a\[0\]\.num_classes is not set, and the labels .* set it',
        ),
        (
            {'a': {'data': 'num_tests'}},
            Three(),
            "^config.a asks the data set for 'num_tests', which Three does not have",
        ),
        ({'a': {'data': '_train'}}, types.SimpleNamespace(_train=1), "^config.a asks the data set for '_train'"),
    ],
)
def test_what_a_data_set_does_not_say(config, data, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        filled(config, data)


def test_another_data_set_is_said_once() -> None:
    """The head and the soft labels of a published recipe follow the data set; config.json has the numbers."""
    config = vig_s.get_config('smoke')
    config.data.dataset = 'digits'
    run, written = read_run(config.to_dict())
    assert run.task.inner.head.num_classes == 10 and run.train_transforms[3].num_classes == 10
    assert {value for _, value in places(written, 'num_classes')} == {10}
    config.task.inner.head.num_classes = 12  # more logits than classes are the user's affair
    assert read_run(config.to_dict())[0].task.inner.head.num_classes == 12
