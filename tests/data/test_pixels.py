"""Images as sequences: all pixels are there, in the order that is asked for."""

import gzip

import numpy as np
import pytest

from longview.data import digits as optical
from longview.data import fashion_mnist, pixels


def test_plain_digits_are_the_rows_one_after_another():
    for test, count in ((False, 1438), (True, 359)):
        made, (image, label) = pixels.digits(test=test), optical.arrays(test)
        assert made['image'].shape == (count, 1, 64, 1) and made['image'].dtype == np.uint8
        np.testing.assert_array_equal(made['image'].reshape(image.shape), image)
        np.testing.assert_array_equal(made['label'], label)


def test_one_order_holds_for_all_images_of_both_splits():
    places = np.arange(3 * 64, dtype=np.uint8).reshape(3, 8, 8, 1)
    label = np.arange(3)
    made, again, other = (pixels.sequences(places, label, 8, seed)['image'][:, 0, :, 0] for seed in (5, 5, 6))
    order = made[0]
    assert sorted(order) == list(range(64)) and list(order) != list(range(64))
    np.testing.assert_array_equal(made, [order, order + 64, order + 128])
    np.testing.assert_array_equal(made, again)
    assert (made != other).any()
    for test in (False, True):
        plain, permuted = (pixels.digits(test=test, order_seed=seed)['image'] for seed in (None, 5))
        np.testing.assert_array_equal(permuted, plain[:, :, order])


def test_images_are_filled_up_on_all_sides():
    image = np.full((2, 3, 3, 1), 9, np.uint8)
    made = pixels.sequences(image, np.zeros(2, int), 6, None)['image'].reshape(2, 6, 6)
    assert (made[:, 1:4, 1:4] == 9).all() and made.sum() == image.sum()
    with pytest.raises(ValueError, match='side is 2, and the images have one of 3: use at least that'):
        pixels.sequences(image, np.zeros(2, int), 2, None)


@pytest.mark.parametrize('side, length', [(28, 784), (32, 1024)])
def test_clothes_are_read_from_their_files(side, length, tmp_path, monkeypatch):
    draws = np.random.RandomState(0)
    monkeypatch.setattr(fashion_mnist, 'DEBIAN', str(tmp_path))
    images = {'train': draws.randint(256, size=(4, 28, 28)), 't10k': draws.randint(256, size=(2, 28, 28))}
    for part, image in images.items():
        for kind, values in (('images-idx3', image), ('labels-idx1', np.arange(len(image)))):
            shape = np.array(values.shape, '>u4').tobytes()
            head = bytes([0, 0, 8, values.ndim]) + shape
            file = tmp_path / f'{part}-{kind}-ubyte.gz'
            file.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))
    made = pixels.fashion_mnist(test=True, side=side)
    assert made['image'].shape == (2, 1, length, 1) and made['label'].tolist() == [0, 1]
    edge = (side - 28) // 2
    inner = made['image'].reshape(2, side, side)[:, edge : edge + 28, edge : edge + 28]
    np.testing.assert_array_equal(inner, images['t10k'])
    assert len(pixels.fashion_mnist(side=side)['label']) == 4
