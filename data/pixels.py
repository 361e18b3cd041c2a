"""Images as sequences of pixels, row by row or in one order drawn at random for all images.

Le, Jaitly and Hinton, 2015, "A Simple Way to Initialize Recurrent Networks of Rectified Linear Units",
https://arxiv.org/abs/1504.00941, section 4.2, read MNIST both ways. In a random order, pixels that belong together are
far apart. A network that reads vectors takes any image row by row as it is; these functions are for other orders and
for longer sequences.
"""

from __future__ import annotations

import numpy as np

from longview.data import fashion_mnist as clothes
from longview.data.digits import arrays

Arrays = dict[str, np.ndarray]


def digits(*, test: bool = False, side: int = 8, order_seed: int | None = None) -> Arrays:
    """Makes a split of data/digits.py, 1,438 images or 359; arguments and columns are those of `sequences`."""
    return sequences(*arrays(test), side, order_seed)


def fashion_mnist(
    *, test: bool = False, side: int = 28, order_seed: int | None = None, folder: str | None = None
) -> Arrays:
    """Makes a split of data/fashion_mnist.py, 60,000 images or 10,000; with a side of 32 there are 1,024 pixels.

    Args:
        test, side, order_seed: as in `digits`.
        folder: with the four files of the set; None for Debian's, in `fashion_mnist.DEBIAN`.

    Returns:
        The columns of `sequences`.

    Raises:
        FileNotFoundError: the files are nowhere, and cannot be fetched.
    """
    found = clothes.find_files((), folder or clothes.DEBIAN)
    part = 't10k' if test else 'train'
    image, label = (clothes.read_idx(found / f'{part}-{kind}-ubyte.gz') for kind in ('images-idx3', 'labels-idx1'))
    return sequences(image[..., None], label, side, order_seed)


def sequences(image: np.ndarray, label: np.ndarray, side: int, order_seed: int | None) -> Arrays:
    """Makes sequences of square images.

    Args:
        image: uint8 (N, H, H, C).
        label: integers (N,).
        side: to which images are filled up with zeros on all sides, and one more below and to the right of an odd rest.
        order_seed: of the order of the pixels, 0 <= order_seed < 2**32; None for row by row.

    Returns:
        image uint8 (N, 1, side * side, C), an image of one row; label int32 (N,).

    Raises:
        ValueError: the images are larger.
    """
    more = side - image.shape[1]
    if more < 0:
        raise ValueError(f'side is {side}, and the images have one of {image.shape[1]}: use at least that.')
    edge = (more // 2, more - more // 2)
    pixels = np.pad(image, ((0, 0), edge, edge, (0, 0))).reshape(len(image), 1, side * side, -1)
    if order_seed is not None:
        pixels = pixels[:, :, np.random.RandomState(order_seed).permutation(side * side)]
    return {'image': pixels, 'label': label.astype(np.int32)}
