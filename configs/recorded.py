"""The config of a run that was made, for another run of it or to evaluate it otherwise.

    python train.py --config configs/recorded.py:WORKDIR --workdir runs/again --config.seed=1

What was left to the data set, such as the number of classes, stands in it as a number.
"""

import json
import pathlib

import ml_collections


def get_config(workdir: str) -> ml_collections.ConfigDict:
    """Returns the config that a workdir's config.json holds.

    Raises:
        FileNotFoundError: there is none.
    """
    file = pathlib.Path(workdir).expanduser() / 'config.json'
    if not file.exists():
        raise FileNotFoundError(f'{workdir} holds no run (there is no config.json): name the workdir of one.')
    return ml_collections.ConfigDict(json.loads(file.read_text()))
