"""The examples of each class."""

from __future__ import annotations

import numpy as np

from longview.data.dataset import DataSet


def by_class(data: DataSet, train: bool = True) -> dict[int, np.ndarray]:
    """Returns the numbers of the examples of each class in a split; classes without examples are left out.

    All labels are read for it: at once from a folder, a table or arrays, record by record from a set of TFDS.

    Raises:
        ValueError: the labels are no classes.
    """
    source = data.source(train)
    labels = source.labels()
    if data.num_classes is None or labels.ndim != 1 or labels.dtype.kind not in 'iu':
        raise ValueError(
            f'The labels of the data are {labels.dtype} {labels.shape[1:]} of num_classes={data.num_classes}; wanted '
            'one class for each example.'
        )
    members = data.members if train else np.arange(source.size)
    of_members = labels[members]
    return {int(label): members[of_members == label] for label in np.unique(of_members) if label >= 0}
