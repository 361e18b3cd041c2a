"""docs/models.md and docs/method_table.md against the code; `python -m tests.tables` writes both."""

import pytest

from tests import ledger, tables

OUT_OF_DATE = f'is out of date: run `{tables.COMMAND}`'
# One of each kind of network: attention with a scan, convolution, a sequence of words.
COUNTED_ALWAYS = ('vig_tiny', 'fixup_resnet20', 'zoology_mamba')


def test_the_page_of_models_is_what_the_code_says():
    assert [*ledger.counted()] == ledger.listed(), 'docs/parameters.tsv is out of date: run `python -m tests.ledger`'
    assert [*tables.counted()] == ledger.listed(), f'docs/models.tsv {OUT_OF_DATE}'
    assert tables.MODELS.read_text() == tables.models(), f'docs/models.md {OUT_OF_DATE}'


def test_the_page_of_methods_is_what_the_code_says():
    assert tables.METHODS.read_text() == tables.method_table(), f'docs/method_table.md {OUT_OF_DATE}'


@pytest.mark.parametrize(
    'name',
    [name if name in COUNTED_ALWAYS else pytest.param(name, marks=pytest.mark.heavy) for name in ledger.listed()],
)
def test_multiply_adds_are_those_of_the_table(name):
    assert ledger.multiply_adds(name) == tables.counted()[name], f'{name}: docs/models.tsv {OUT_OF_DATE[:-1]} --all`'


def test_a_first_sentence_ends_where_it_ends():
    class Said:
        """Steps t = 0 ... T - 1, of ``x``. And more.

        Attributes:
            a: of https://arxiv.org/abs/2001.00001.
        """

    assert tables._first_line(Said) == 'Steps t = 0 ... T - 1, of `x`.'
    assert tables._linked(tables._before_arguments(Said)) is None
    assert tables._cell('`|x|`, `y`') == '<code>&#124;x&#124;</code>, `y`'
