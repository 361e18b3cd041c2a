import dataclasses
import importlib

import ml_collections
import pytest

from longview.names import full
from longview.runtime.renames import MODULES, OBJECTS, VARIANTS, current, renamed
from longview.runtime.resolve import ConfigError, locate, resolve

pytestmark = pytest.mark.quick


@dataclasses.dataclass(frozen=True)
class Part:
    width: int
    depth: int = 2


@dataclasses.dataclass(frozen=True)
class Whole:
    part: Part
    extra: tuple = ()


PART = f'{__name__}:Part'
WHOLE = f'{__name__}:Whole'


def test_calls_depth_first_and_makes_tuples() -> None:
    config = ml_collections.ConfigDict(
        {'fn': WHOLE, 'part': {'fn': PART, 'width': 3}, 'extra': [1, {'fn': PART, 'width': 1}]}
    )
    assert resolve(config) == Whole(Part(3), (1, Part(1)))


def test_a_tree_without_fn_stays_a_tree() -> None:
    assert resolve({'a': {'b': 1}, 'c': {'fn': PART, 'width': 1}}) == {'a': {'b': 1}, 'c': Part(1)}


def test_partials_wait_for_the_rest() -> None:
    slot = resolve({'partial': PART, 'depth': 5})
    assert slot(width=1) == Part(1, 5)


def test_an_override_reaches_the_object() -> None:
    config = ml_collections.ConfigDict({'part': {'fn': PART, 'width': 3}}).lock()
    config.part.width = 4
    assert resolve(config)['part'].width == 4


@pytest.mark.parametrize(
    'config, words',
    [
        ({'fn': PART, 'widht': 3}, ['config: ', "takes no 'widht'", "did you mean 'width'"]),
        ({'fn': WHOLE, 'part': {'fn': PART, 'width': 1, 'dept': 3}}, ['config.part.dept', "did you mean 'depth'"]),
        ({'partial': PART, 'dept': 3}, ["did you mean 'depth'"]),
        ({'fn': PART}, ["also needs 'width'"]),
        ({'fn': 'runtime.resolv:resolve'}, ["no module 'longview.runtime.resolv'", "did you mean 'resolve'"]),
        ({'fn': 'runtime.resolve:resolv'}, ["has no 'resolv'", "did you mean 'resolve'"]),
        ({'fn': 'no_such_package_at_all.x:y'}, ["no module 'no_such_package_at_all'"]),
        ({'fn': 'runtime.resolve'}, ["not of the form 'package.module:name'"]),
        ({'fn': PART, 'partial': PART}, ['both']),
    ],
)
def test_mistakes_are_named_with_the_nearest(config: dict, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        resolve(config)
    for word in words:
        assert word.removesuffix(': ') in str(error.value)


def test_an_error_inside_an_imported_module_is_not_hidden(tmp_path, monkeypatch) -> None:
    (tmp_path / 'broken_module.py').write_text('import a_missing_dependency')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match='a_missing_dependency'):
        resolve({'fn': 'broken_module:x'})


def test_names_of_earlier_configs_make_what_they_made() -> None:
    old = {'fn': 'modelzoo.vision.pvt:pvt_v2', 'widths': [8, 16], 'depths': [1, 1], 'heads': [1, 2], 'drop_path': None}
    new = {'fn': 'modelzoo:backbone', 'variant': 'pvt_v2_b0', 'widths': [8, 16], 'depths': [1, 1], 'heads': [1, 2]}
    assert resolve(old) == resolve(new)
    assert renamed({'task': [old]}) == renamed({'task': [new]}) == {'task': [new]}
    layer = {'partial': 'modelzoo.layers.norm:RMSNorm', 'epsilon': 1e-6}
    assert renamed(layer) == layer | {'partial': 'modelzoo.layers.norms.norm:RMSNorm'}
    assert resolve(layer).func is resolve({'partial': 'longview.modelzoo.layers.norms.norm:RMSNorm'}).func


def test_every_name_that_moved_leads_somewhere() -> None:
    for before in (*VARIANTS, *OBJECTS):
        assert callable(locate(current(before, {})[0]))
    for before in MODULES:
        importlib.import_module(full(current(f'{before}:x', {})[0].partition(':')[0]))
