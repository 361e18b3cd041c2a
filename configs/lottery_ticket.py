"""The lottery ticket: train, prune, set back, and train again.

The Lottery Ticket Hypothesis: Finding Sparse, Trainable Neural Networks, Frankle and Carbin, 2019,
https://arxiv.org/abs/1803.03635.

    python train.py --config configs/lottery_ticket.py:digits --workdir runs/lottery_digits
    python train.py --config configs/lottery_ticket.py:fashion_mnist --workdir runs/lottery_fashion
    python train.py --config configs/lottery_ticket.py:digits --workdir runs/lottery_control --config.task.control=True

Published: subnetworks of less than 10-20 % of the size of fully connected and convolutional networks for MNIST and
CIFAR-10 that reach the whole network's accuracy in as many steps. Those networks are not here; the rounds, of equal
length in one run, are: five, of which each but the last removes 40 % of the weights that are left, so 13 % train in the
last. As the paper does for deeper networks, the smallest of all layers together go, and the rate rises slowly. With
`control` the last round starts from other random weights, the paper's comparison.
"""

from longview.configs import base

ROUNDS = 4


def ticket(config, every, warmup_epochs):
    """`config` in rounds of some steps, the optimizer anew in each."""
    task = {
        'fn': 'methods.prune.magnitude:Prune',
        'inner': config['task'],
        'every': every,
        'rounds': ROUNDS,
        'amount': 0.4,
        'pattern': '.*kernel',
        'scope': 'global',
        'rewind_to': 0,
        'control': False,
    }
    schedule = config['optimizer']['schedule'] | {'warmup_epochs': warmup_epochs}
    inner = config['optimizer'] | {'schedule': schedule}
    optimizer = {'partial': 'methods.optim.restart:restarting', 'optimizer': inner, 'every': every}
    return config | {'task': task, 'optimizer': optimizer, 'epochs': base.unset(float), 'steps': (ROUNDS + 1) * every}


get_config = base.presets(
    digits=ticket(base.digits(base.RESNET, peak=0.012, ema=None), every=337, warmup_epochs=3.0),
    fashion_mnist=ticket(base.fashion_mnist(base.RESNET | {'stem_stride': 4}, ema=None), every=1000, warmup_epochs=1.0),
)
