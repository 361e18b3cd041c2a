"""PointNet: digits as sets of points, told apart by the maximum over what is seen of each.

PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation, Qi et al., 2017,
https://arxiv.org/abs/1612.00593.

    python train.py --config configs/points.py:digits --workdir runs/points_digits
    python train.py --config configs/points.py:digits_mean --workdir runs/points_digits_mean

Published: 89.2 % on ModelNet40, 1,024 points of each shape. Not run here. digits_mean has the same layers, all of them
on the mean of the points themselves.
"""

from longview.configs import base

SPLIT = {'partial': 'data.clouds:digits'}
DATA = {
    'fn': 'input_pipeline:Arrays',
    'train_split': SPLIT | {'seed': 0},
    'eval_split': SPLIT | {'test': True, 'seed': 1},
    'num_classes': 10,
}


def run(**fields):
    backbone = {'fn': 'modelzoo.points.pointnet:PointNet', **fields}
    optimizer = base.adamw(peak=3e-3, warmup_epochs=2.0, end=3e-5, clip_norm=1.0)
    task = base.supervised(backbone, ema=0.99, ema_warmup=True, label_smoothing=0.1)
    return base.run(task, DATA, optimizer, epochs=60.0, batch_size=128)


get_config = base.presets(
    digits=run(each=(64, 64, 128), after=(128, 128), pool='max'),
    digits_mean=run(each=(), after=(64, 64, 128, 128, 128), pool='mean'),
)
