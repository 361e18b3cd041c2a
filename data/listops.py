"""ListOps: nested lists of digits with an operator each, and what the whole comes to, 0 to 9.

Nangia and Bowman, 2018, "ListOps: A Diagnostic Dataset for Latent Tree Learning", https://arxiv.org/abs/1804.06028; in
the lengths of Tay et al., 2020, "Long Range Arena", https://arxiv.org/abs/2011.04006. Reference:
https://github.com/google-research/long-range-arena (Apache-2.0), commit 29833a1, lra_benchmarks/data/listops.py; read
for facts, no code was taken.

    [MAX 4 [MIN 7 2 ] [SM 9 8 ] 1 ]    label 7

Trees are drawn as in the reference: below the root, a node is a list with a probability of 1/4 and a digit otherwise,
lists have 2 to `most` members, and trees whose length is not wanted are drawn anew. MED is the median, rounded down,
and SM the sum modulo 10.

Where we differ: there are no parentheses around each pair, which the arena's pipeline drops too; the numbers drawn are
others; and splits are told apart by their expressions (data/drawn.py) instead of being cut from one set.
"""

from __future__ import annotations

import functools

import numpy as np

from longview.data.drawn import Arrays, drawn

# Word 0 is padding; a digit d is word 1 + d.
WORDS = ('<pad>', *map(str, range(10)), '[MIN', '[MAX', '[MED', '[SM', ']')
_OPERATIONS = (np.min, np.max, lambda values: int(np.median(values)), lambda values: np.sum(values) % 10)
_FIRST_OPERATOR, _END = WORDS.index('[MIN'), WORDS.index(']')
_LIST = 0.25


def listops(
    *,
    split: str,
    examples: int,
    lengths: tuple[int, int] = (500, 2000),
    depth: int = 10,
    most: int = 10,
    seed: int = 0,
) -> Arrays:
    """Makes a split; 96,000, 2,000 and 2,000 examples are published.

    Args:
        split: 'train', 'validation' or 'test'.
        examples: number of expressions N.
        lengths: an expression has more words than the first and fewer than the second, T.
        depth: of the deepest digit, at least 2; the root has depth 1.
        most: members of a list, at least 2.
        seed: 0 <= seed < 2**32.

    Returns:
        words int32 (N, T), numbers of `WORDS`; words_valid bool (N, T), False in the padding; label int32 (N,).

    Raises:
        ValueError: no expression fits these numbers, or there is no such split.
    """
    if depth < 2 or most < 2:
        raise ValueError(f'depth is {depth} and most is {most}: a list needs a depth of 2 and 2 members at least.')
    # The shortest list has 4 words; in the longest one every node above the deepest digits is a full list.
    longest = most ** (depth - 1) + 2 * sum(most**level for level in range(depth - 1))
    if lengths[1] - lengths[0] < 2 or lengths[1] < 5 or lengths[0] >= longest:
        raise ValueError(
            f'lengths is {lengths}: expressions have 4 to {longest} words here, and have to be longer than the first '
            'and shorter than the second.'
        )
    one = functools.partial(_expression, lengths=lengths, depth=depth, most=most)
    return drawn(one, key='words', split=split, examples=examples, seed=seed)


def _expression(draws: np.random.RandomState, lengths: tuple[int, int], depth: int, most: int) -> Arrays | None:
    members = _tree(draws, depth, most, lengths[1])
    length = len(members) + np.count_nonzero(members)
    if not lengths[0] < length < lengths[1]:
        return None
    symbols = np.where(members, draws.randint(4, size=len(members)), draws.randint(10, size=len(members)))
    # Nodes stand level by level, so the members of a list follow those of the lists before it.
    first = 1 + np.cumsum(members) - members
    words = np.zeros(lengths[1], np.int32)
    words[:length] = _written(members.tolist(), symbols.tolist(), first.tolist())
    return {'words': words, 'words_valid': words > 0, 'label': np.int32(_value(members, symbols, first))}


def _tree(draws: np.random.RandomState, depth: int, most: int, too_long: int) -> np.ndarray:
    """Returns how many members each node has, level by level, 0 for a digit; growth ends once it is too long."""
    levels = [draws.randint(2, most + 1, size=1)]
    for _ in range(depth - 2):
        count = levels[-1].sum()
        if sum(map(len, levels)) + count >= too_long:
            break
        levels.append(draws.randint(2, most + 1, size=count) * (draws.random_sample(count) < _LIST))
    return np.concatenate([*levels, np.zeros(levels[-1].sum(), int)])


def _written(members: list[int], symbols: list[int], first: list[int]) -> list[int]:
    words, waiting = [], [0]
    while waiting:
        node = waiting.pop()
        if node is None:
            words.append(_END)
        elif members[node]:
            words.append(_FIRST_OPERATOR + symbols[node])
            waiting += [None, *reversed(range(first[node], first[node] + members[node]))]
        else:
            words.append(1 + symbols[node])
    return words


def _value(members: np.ndarray, symbols: np.ndarray, first: np.ndarray) -> int:
    values = symbols.copy()
    for node in reversed(np.flatnonzero(members)):
        values[node] = _OPERATIONS[symbols[node]](values[first[node] : first[node] + members[node]])
    return int(values[0])
