"""Windows: partitioning, merging, and the mask after a shift."""

import jax.numpy as jnp
import numpy as np
import pytest

from longview.modelzoo.layers.attention import window


@pytest.mark.parametrize(
    'size, side, cut, shift',
    [
        ((56, 56), 7, (7, 7), (3, 3)),
        ((8, 8), 8, (8, 8), (0, 0)),
        ((4, 12), 8, (4, 8), (0, 4)),
        ((9, 9), 8, (8, 8), (4, 4)),
    ],
)
def test_a_window_ends_with_the_map_and_stays_where_it_spans_it(size, side, cut, shift):
    assert window.fit(size, side) == (cut, shift)


@pytest.mark.quick
def test_windows_are_squares_in_rows_and_come_back():
    x = jnp.arange(2 * 4 * 6 * 2).reshape(2, 4, 6, 2).astype(jnp.float32)
    windows = window.partition(x, (2, 3))
    assert windows.shape == (8, 6, 2)
    np.testing.assert_array_equal(windows[1], x[0, :2, 3:].reshape(6, 2))
    np.testing.assert_array_equal(windows[6], x[1, 2:, :3].reshape(6, 2))
    np.testing.assert_array_equal(window.merge(windows, (2, 3), (4, 6)), x)


@pytest.mark.parametrize('size, cut, shift', [((8, 8), (4, 4), (2, 2)), ((4, 9), (4, 3), (0, 1))])
def test_apart_are_pixels_that_lie_further_than_a_window_before_the_shift(size, cut, shift):
    places = np.stack(np.indices(size), axis=-1)
    rolled = np.roll(places, (-shift[0], -shift[1]), (0, 1))[None].astype(np.float32)
    windows = np.asarray(window.partition(jnp.asarray(rolled), cut))
    between = abs(windows[:, :, None] - windows[:, None])
    np.testing.assert_array_equal(window.apart(size, cut, shift), (between >= cut).any(-1))


def test_equal_offsets_share_a_row_of_the_table():
    index = window.relative_index((2, 3))
    rows, columns = np.indices((2, 3)).reshape(2, -1)
    offsets = {}
    for query in range(6):
        for key in range(6):
            offset = (rows[query] - rows[key], columns[query] - columns[key])
            assert offsets.setdefault(offset, index[query, key]) == index[query, key]
    assert sorted(offsets.values()) == list(range(3 * 5))
    assert [offsets[offset] for offset in ((-1, -2), (0, 0), (1, 2))] == [0, 7, 14]
