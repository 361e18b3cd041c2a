"""The README's table of what there is, against what is counted."""

import pytest

from tests import readme

pytestmark = pytest.mark.quick


def test_the_table_is_what_is_counted():
    assert readme.README.read_text() == readme.written(), 'the README is out of date: run `python -m tests.readme`'


def test_the_picture_has_the_families_of_the_results():
    found = readme.trained()
    assert len(found) > 20 and found['vcmamba_s'] == 100.0 and found['vig_s'] == 98.89
    assert all(90 < accuracy <= 100 for accuracy in found.values())
