"""The config of a run that was made, for another run of it or to evaluate it otherwise.

    python train.py --config configs/recorded.py:WORKDIR --workdir runs/again --config.seed=1

What was left to the data set, such as the number of classes, stands in it as a number.
"""

import pathlib

import ml_collections

from longview.runtime.stages import located
from longview.runtime.workdir import recorded


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Returns the config that a workdir's config.json holds; other stages that it names lie beside the workdir.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the workdir holds a computation.
    """
    folder = pathlib.Path(workdir).expanduser()
    return ml_collections.ConfigDict(located(recorded(folder), folder.absolute().parent))
