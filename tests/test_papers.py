"""docs/papers.md and docs/parameters.tsv against the code and the tests; `python -m tests.ledger` writes both."""

import pytest

from longview import modelzoo
from tests import ledger
from tests.modelzoo.tiny import deep_ones_heavy

PAPERS = ledger.papers()


@pytest.mark.parametrize('name', deep_ones_heavy(ledger.listed()))
def test_parameters_are_those_of_the_table(name):
    ours, recorded = ledger.count(name), ledger.counted().get(name)
    assert ours == recorded, (
        f'{name} has {ours} and docs/parameters.tsv {recorded}: another fingerprint means that the checkpoints and '
        'published weights of before no longer fit. If that is meant, run `python -m tests.ledger`.'
    )


def test_the_table_of_parameters_has_the_published_variants_and_no_others():
    assert [*ledger.counted()] == ledger.listed(), 'docs/parameters.tsv is out of date: run `python -m tests.ledger`'


def test_the_page_is_what_the_ledger_says_and_whatever_has_a_file_claims_something():
    assert ledger.PAGE.read_text() == ledger.page(), 'docs/papers.md is out of date: run `python -m tests.ledger`'
    unlike = [name for paper in PAPERS for name in ledger.variants(paper) if not ledger.as_published(name)]
    assert not unlike
    assert not [paper.id for paper in PAPERS if paper.file and not ledger.claims(paper)]


def test_every_paper_has_one_row():
    assert len(PAPERS) == len({paper.id for paper in PAPERS}) == len({paper.title for paper in PAPERS}) == 339


@pytest.mark.parametrize('paper', [paper for paper in PAPERS if paper.file], ids=lambda paper: paper.id)
def test_what_a_row_names_is_there(paper):
    assert (ledger.ROOT / paper.file).exists()
    missing = [name for name in paper.configs if not (ledger.ROOT / 'configs' / f'{name}.py').exists()]
    assert not missing
    assert all(map(ledger.tested, paper.goldens)), 'no test compares with the golden'
    assert bool(paper.models) == bool(ledger.variants(paper)), 'the patterns match no variant'


def test_a_row_without_a_file_claims_nothing():
    empty = ledger.Paper('X', 'title', 'block', (), None, (), ())
    assert ledger.claims(empty) == [] and ledger.evidence(empty) == ''


def test_a_claim_needs_its_evidence():
    good = next(paper for paper in PAPERS if paper.id == 'C076')._replace(models=('vig_tiny',))
    assert ledger.claims(good) == ['built', 'exact', 'weights', 'trains']
    assert 'exact' not in ledger.claims(good._replace(goldens=('vig_tiny', 'vig_of_nobody')))
    assert 'trains' not in ledger.claims(good._replace(configs=('mqar_zoology',)))
    assert 'built' not in ledger.claims(good._replace(models=('vig_test',)))
    kernel = next(paper for paper in PAPERS if paper.id == 'C001')
    assert ledger.claims(kernel) == ['exact']


@pytest.mark.parametrize(
    'count, said, fits',
    [
        (5.83, 6, True),
        (27.78, 27, True),
        (29.9, 28, False),
        (13.23, 13.2, True),
        (13.45, 13.2, False),
        (1372, 1400, True),
        (1272, 1400, False),
    ],
)
def test_a_count_may_be_rounded_or_cut_off(count, said, fits):
    assert ledger.agrees(count, said, 0.005) == fits


@pytest.mark.heavy
@pytest.mark.parametrize(
    'name', [name for family in modelzoo.families() for name in family.PUBLISHED if family.PUBLISHED[name].macs]
)
def test_multiply_adds_are_the_papers(name):
    said = modelzoo.find(name)[0].PUBLISHED[name].macs
    assert ledger.reason(name) or ledger.agrees(ledger.multiply_adds(name) / 1e9, said, 0.05)
