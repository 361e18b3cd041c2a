"""MobileNetV2 with translation variant convolutions, whose kernels differ from place to place.

TVConv: Efficient Translation Variant Convolution for Layout-aware Visual Processing, Chen et al., 2022,
https://arxiv.org/abs/2203.10489.

    python train.py --config configs/tvconv.py --workdir runs/tvconv
    python train.py --config configs/tvconv.py:digits --workdir runs/tvconv_digits
    python train.py --config configs/tvconv.py:plain_digits --workdir runs/depthwise_digits

Published: on pairs of faces up to 4.21 % more accurate than depthwise convolutions at equal cost, or as accurate with
up to 3.1 times fewer multiply-adds. Not run here. The first preset has the optimizer of
https://github.com/JierunChen/TVConv (MIT), face_recognition/train_test.py and model_interface.py: batches of 512, 38
epochs at a rate of 0.1 that is divided by ten after 22, 30 and 35, SGD with a momentum of 0.9, a decay of 5e-4 of all
parameters, whole images of 96x96, flipped. There they are aligned faces: name a folder of them with
--config.data.dataset=./faces --config.data.eval_split=val. What differs: the loss is a plain softmax cross-entropy,
there of cosines times 32 with a margin of 0.35; figures are of single images, not of pairs. `plain_digits` has a
depthwise convolution wherever `digits` has a varying one, with as many multiply-adds once the kernels are stored. What
they reach: docs/results.md.
"""

from longview.configs import base

BACKBONE = base.backbone('tvconv_mobilenet_v2_x0_1')
EVERYTHING = (('.*', 1.0),)
VARYING = {'partial': 'modelzoo.layers.convolutions.tvconv:TVConv', 'width': 8, 'depth': 1}
SMALL = BACKBONE | {
    'depths': (1, 1, 1),
    'widths': (8, 16, 24),
    'expansions': (1, 4, 4),
    'steps': (1, 1, 2),
    'stem_width': 8,
    'head_width': 64,
    'embedding': 64,
    'image_size': 8,
    'varying': VARYING,
}
TINY = SMALL | {'image_size': 32, 'drop_path': 0.1, 'varying': VARYING | {'width': 4}}


def recipe(backbone):
    """The published optimizer, on whole images."""
    optimizer = base.sgd(
        base.staircase(0.1, (22.0, 30.0, 35.0)), nesterov=False, weight_decay=5e-4, decay_rules=EVERYTHING
    )
    config = base.imagenet(backbone, optimizer, epochs=38.0, batch_size=512, image_size=96, ema=None)
    whole = {'fn': 'data.images:PadCrop', 'padding': 0, 'flip': True}
    half = [base.normalize(base.HALF, base.HALF)]
    data = config['data'] | {'train_crop': whole, 'eval_crop': {'fn': 'data.images:Resize'}}
    return config | {'data': data, 'train_transforms': half, 'eval_transforms': half}


get_config = base.presets(
    imagenet=recipe(BACKBONE),
    digits=base.digits(SMALL, epochs=15.0, ema=None),
    plain_digits=base.digits(SMALL | {'varying': None}, epochs=15.0, ema=None),
    fashion_mnist=base.fashion_mnist(SMALL | {'steps': (1, 2, 2), 'image_size': 28}, ema=None),
    smoke=base.smoke(recipe(TINY)),
)
