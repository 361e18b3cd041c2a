"""Which goldens there are, and what of ours each is of: the one table that the tests run and the ledger believes.

One that costs more than 4 CPU seconds is heavy, where its family has another; the blocks of others are scanned, which
compiles one of them instead of all and changes no number (tests/modelzoo/test_contract.py).

A bar is ten times what was measured, or more; see `networks.Network`. Where it is above the default the reason stands
beside it: the reference's own float32 is as far from float64, by its note.
"""

from typing import Any

from longview.modelzoo.layers import ode
from longview.modelzoo.layers.convolutions import compression, scse
from longview.modelzoo.layers.mixers import mamba
from longview.modelzoo.vision import ci2p_vit, coatnet, convfirst, maxvit, ninformer, poincare_resnet, vcmamba, wavemix
from longview.modelzoo.vision.convnext import NAMES as CONVNEXT_NAMES
from tests.goldens import bounded, scaffolds
from tests.goldens.functions import Function
from tests.goldens.networks import Network

_SCAFFOLD = 'tests.goldens.scaffolds'
_ZOOLOGY = 'modelzoo.sequence.zoology:zoology'


def _backbone(variant: str, **fields: Any) -> dict[str, Any]:
    return {'fn': 'modelzoo:backbone', 'variant': variant, **fields}


def _orchid(kind: str, **fields: Any) -> Network:
    return Network({'fn': 'modelzoo.layers.mixers.orchid:Orchid', 'places': 16, 'hidden': 12, 'kind': kind, **fields})


def _ode(kind: str, steps: int, **fields: Any) -> Network:
    func = {'partial': f'modelzoo.layers.ode:{kind}', **fields}
    block = {'fn': 'modelzoo.layers.ode:ODEBlock', 'func': func, 'solver': 'rk4', 'steps': steps}
    return Network(block, names=ode.names('f.', 'func/'))


def _scanned(variant: str) -> Network:
    return Network({'name': variant, 'scan': True})


def _zoology(mixer: str, width: int = 32, **options: int) -> Network:
    build = {'fn': _ZOOLOGY, 'mixer': mixer, 'width': width, 'vocabulary': 128, 'mlp': True, 'options': options}
    return Network(build)


def _dcls(interpolation: str) -> Network:
    build = {'fn': 'modelzoo.layers.convolutions.dcls:Dcls', 'features': 12, 'kernel_size': 7, 'padding': 3}
    names = (('weight', 'kernel'), ('bias', 'bias'), ('input', 'positions'), ('SIG', 'widths'))
    return Network({**build, 'groups': 12, 'count': 4, 'interpolation': interpolation}, names=names)


def _resformer(variant: str) -> Network:
    build = {'fn': 'modelzoo.sequence.resformer:resformer', 'variant': variant}
    return Network({**build, 'width': 64, 'depth': 4, 'heads': 4, 'vocabulary': 128})


def _fftconv(channels: int, places: int, **options: Any) -> Network:
    build = {'fn': f'{_SCAFFOLD}:LongConv', 'channels': channels, 'places': places, **options}
    return Network(build, channels=1, names=(('k', 'kernel'),))


NETWORKS: dict[str, Network] = {
    'vig_tiny': _scanned('vig_tiny'),
    'vig_h_tiny': Network(output=2e-4, gradient=2e-4, heavy=True),
    'resnet18': Network(),
    'resnet50_max': Network(heavy=True),
    'wrn_16_8_cifar': Network(),
    'resnetv2_50x1_bit': Network(output=2e-4, gradient=6e-2),  # gradient: 6e-3 by its note
    'resnetv2_50d_evos': Network(heavy=True),
    'preact_resnet29_cifar10': Network(
        {'name': 'preact_resnet164_cifar', 'num_classes': 10, 'depths': (3, 3, 3)},
        names=scaffolds.preact_resnet_names(),
    ),
    'preact_resnet164_cifar10': Network(
        {'name': 'preact_resnet164_cifar', 'num_classes': 10, 'scan': True},
        gradient=1e-3,
        names=scaffolds.preact_resnet_names(),
        heavy=True,
    ),
    'pyramidnet110_a48_cifar10': Network({'name': 'pyramidnet110_a48_cifar', 'num_classes': 10}, heavy=True),
    'pyramidnet50_a90_imagenet': Network(
        {'name': 'pyramidnet200_a300', 'depths': (3, 4, 6, 3), 'alpha': 90.0}, heavy=True
    ),
    'dpn68': Network(heavy=True),
    'regnety_004': Network(heavy=True),
    'pycls_efficientnet_b0': Network({'name': 'efficientnet_b0'}, heavy=True),
    'pycls_regnety_400mf': Network({'name': 'regnety_004'}, heavy=True),
    'pycls_regnety_400mf_fastscaled_4x': Network({'fn': 'modelzoo.vision.regnet:scaled', 'work': 4.0}, heavy=True),
    'resnetrs50': Network(heavy=True),
    'residual_attention_56': Network({'name': 'residual_attention_56', 'adds': True}, heavy=True),
    'residual_attention_92_cifar10': Network(
        {'name': 'residual_attention_92_cifar', 'num_classes': 10, 'adds': True}, heavy=True
    ),
    'fractalnet_b5_c3_cifar10': Network({'name': 'fractalnet20_cifar', 'num_classes': 10}, heavy=True),
    'sparsenet40_k24_cifar100': Network({'name': 'sparsenet40_k24_cifar', 'num_classes': 100}),
    'wavemix_192_16_level3': Network(heavy=True),
    'wavemix_sisr_144_4_level1': Network(
        {'fn': 'modelzoo.vision.wavemix:SuperResolution'}, names=wavemix.SUPER_RESOLUTION_NAMES
    ),
    'ese_vovnet19b_dw': Network(gradient=1e-3, heavy=True),  # the output hardly depends on the input, by its note
    'res2net50_26w_4s': Network(gradient=2e-4),
    'nf_resnet50': Network(gradient=3e-3),  # 3e-4 by its note
    'dm_nfnet_f0': Network(heavy=True),
    'inception_v4': Network(gradient=2e-3, heavy=True),  # the output hardly depends on the input, by its note
    'inception_resnet_v2': Network(gradient=3e-3, heavy=True),  # 3e-4 by its note
    'lsnet_t': Network(names=scaffolds.lsnet_names(), heavy=True),
    'shvit_s1': Network(heavy=True),
    't2t_vit_7': Network({'name': 't2t_vit_7', 'wide_scale': False, 'scan': True}, heavy=True),
    'iformer_small': Network(heavy=True),
    'iformer_mixer_96': Network(
        {'fn': 'modelzoo.vision.iformer:InceptionMixer', 'heads': 3, 'attending': 1, 'halved': True}, channels=-1
    ),
    'convnext_tiny': _scanned('convnext_tiny'),
    'convnext_dcls_tiny': Network(
        {'name': 'convnext_dcls_tiny', 'scan': True},
        names=(*CONVNEXT_NAMES['ConvNeXt'], ('stages.{s}.0.dwconv.input', 'backbone/stage{s}/positions')),
        heavy=True,
    ),
    'weighted_conv2d': Network(
        {
            'fn': 'modelzoo.layers.convolutions.weighted:WeightedConv',
            'features': 16,
            'kernel_size': 5,
            'padding': 2,
            'density': (0.5, 0.8),
        }
    ),
    'crossd_conv': Network(
        {'fn': 'modelzoo.layers.convolutions.cross_d:CrossDConv', 'features': 16, 'kernel_size': 3, 'padding': 1}
    ),
    'dcls2d_v0': _dcls('v0'),
    'dcls2d_v1': _dcls('v1'),
    'dcls2d_gauss': _dcls('gauss'),
    'inceptionnext_atto': Network(),
    'inceptionnext_tiny': Network(heavy=True),
    'hornet_tiny_7x7': _scanned('hornet_tiny_7x7'),
    'hornet_tiny_gf': Network(heavy=True),
    'unireplknet_a': Network(output=5e-4, gradient=1e-2, heavy=True),  # 1e-5 and 4e-4 by its note
    'unireplknet_a_deploy': Network(),
    'spartan_t': Network(heavy=True),
    'repmlpnet_t224': Network(output=3e-4, gradient=3e-3, heavy=True),  # gradient: 1e-4 by its note
    'repmlpnet_t224_deploy': Network(heavy=True),
    'maxim_s1': Network({'fn': 'modelzoo.restorers.maxim:MAXIM'}, heavy=True),
    'vit_tiny_patch16_224': Network(),
    'deit_small_patch16_224': Network(),
    'clip_vision_d128_l4_p16_112': Network({'fn': f'{_SCAFFOLD}:ClipVision'}, names=scaffolds.clip_vision_names()),
    'vit_tiny_clip_quickgelu_p32_224': Network(
        {'name': 'vit_base_patch32_clip_quickgelu_224', 'width': 192, 'depth': 3, 'heads': 3}
    ),
    'hiera_tiny_224': Network(heavy=True),
    'hiera_tiny_224_blocks': Network(
        {'fn': f'{_SCAFFOLD}:HieraBlocks'}, channels=-1, names=scaffolds.hiera_block_names()
    ),
    'pit_ti_max': Network(),
    'vit_ti_max': Network(gradient=4e-3, heavy=True),  # gradient: 4e-4 by its note
    'mixer_s32_224': Network(),
    'ninformer_d128_n64_l4': Network({'fn': f'{_SCAFFOLD}:NiNformerBlocks'}, names=ninformer.block_names('')),
    'resmlp_12_224': Network(),
    'convit_tiny': Network(),
    'crossvit_9_240': Network(heavy=True),
    'pvt_v1_tiny': Network(),
    'pvt_v2_b0': Network(),
    'swinv2_tiny_window8_256': _scanned('swinv2_tiny_window8_256'),
    'cvt_13': Network(),
    'tiny_moat_0': Network(),
    'moat_0': Network(heavy=True),
    'moat_block_s2_64': Network({'fn': f'{_SCAFFOLD}:MoatBlock'}, names=scaffolds.moat_block_names()),
    'gdn_6': Network({'fn': 'modelzoo.layers.norms.gdn:GDN'}),
    'compressai_encoder_n12_m16': Network(
        {
            'fn': 'modelzoo.layers.convolutions.compression:Analysis',
            'widths': (12, 12, 12, 16),
            'norm': {'partial': 'modelzoo.layers.norms.gdn:GDN'},
        },
        names=compression.analysis_names('', ''),
    ),
    'ci2p_embed_n8_m8': Network({'fn': f'{_SCAFFOLD}:CompressedPatches'}, names=ci2p_vit.patch_names('', 'patches/')),
    'coatnet_0_224': Network(heavy=True),
    'coatnet_0_rw_224': Network(heavy=True),
    'coatnet_0_224_stage3': Network(
        {'fn': f'{_SCAFFOLD}:CoAtNetStage'}, names=scaffolds.hybrid_stage_names(coatnet.NAMES['CoAtNet'])
    ),
    'maxvit_tiny_tf_224': Network(heavy=True),
    'maxvit_tiny_tf_224_stage0': Network(
        {'fn': f'{_SCAFFOLD}:MaxViTStage'}, names=scaffolds.hybrid_stage_names(maxvit.NAMES['MaxViT'])
    ),
    'sret_t': Network({'name': 'sret_t', 'order': None, 'scan': True}, heavy=True),
    'sret_t_wo_slice': Network({'name': 'sret_t_wo_slice', 'scan': True}, heavy=True),
    'sret_transformer_stage_g4_1': Network(
        {'fn': f'{_SCAFFOLD}:RecursiveStage'}, names=scaffolds.recursive_stage_names()
    ),
    'stvit_small': Network(
        {'name': 'stvit_small', 'scan': True},
        gradient=7e-3,  # a rounding error at the input moves it by 7e-4
        heavy=True,
    ),
    'stvit_stoken_attention': Network({'fn': 'modelzoo.vision.stvit:SuperTokenAttention', 'heads': 4, 'cell': 4}),
    'glnet_4g': Network(heavy=True),
    'glnet_stl': Network(heavy=True),
    'duoformer_r50_s2_depth2': Network({'name': 'duoformer_r50_s2', 'depth': 2, 'scan': True}, heavy=True),
    'duoformer_multiscale_former_d96_s3': Network(
        {'fn': f'{_SCAFFOLD}:DuoFormerTokens', 'scratch': True},
        channels=-1,
        names=scaffolds.duoformer_tokens_names(scratch=True),
    ),
    'duoformer_multiscale_transformer_d96_s2': Network(
        {'fn': f'{_SCAFFOLD}:DuoFormerTokens', 'scratch': False},
        channels=-1,
        names=scaffolds.duoformer_tokens_names(scratch=False),
    ),
    'glmix_block_64': Network({'fn': f'{_SCAFFOLD}:GLMixBlock'}, names=scaffolds.glmix_block_names()),
    'poincare_resnet_8_16_32_d8': Network({'fn': f'{_SCAFFOLD}:published_poincare_resnet'}, heavy=True),
    'poincare_conv2d': Network(
        {'fn': 'modelzoo.vision.poincare_resnet:PoincareConv', 'features': 6, 'published': True},
        names=poincare_resnet.CONV_NAMES,
    ),
    'poincare_linear': Network(
        {'fn': f'{_SCAFFOLD}:PoincareLinear'}, names=(('z', 'head/direction'), ('bias', 'head/bias'))
    ),
    'poincare_batchnorm2d': Network(
        {'fn': 'modelzoo.vision.poincare_resnet:PoincareNorm', 'published': True, 'learned': False},
        names=poincare_resnet.NORM_NAMES,
    ),
    'svt_s': Network({'name': 'svt_s', 'scan': True}, heavy=True),
    'svt_channel_token_mixing_128': Network(
        {'fn': f'{_SCAFFOLD}:ScatteringTokens'}, channels=-1, names=scaffolds.scattering_tokens_names()
    ),
    'msa_conv_2d_k3': Network(
        {'fn': 'modelzoo.layers.attention.msa_conv:MSAConv', 'features': 32, 'kernel_size': 3, 'stride': 2}
    ),
    'convfirst_block': Network(
        {'fn': 'modelzoo.vision.convfirst:ConvFirst', 'features': 32, 'fused': True}, names=convfirst._CONV_FIRST_NAMES
    ),
    'convfirst_mbconv_block': Network(
        {'fn': 'modelzoo.vision.convfirst:MBConv', 'features': 32}, names=convfirst._MBCONV_NAMES
    ),
    'transnext_micro': Network({'name': 'transnext_micro', 'scan': True}, heavy=True),
    'transnext_aggregated_attention_12x12': Network(
        {'fn': f'{_SCAFFOLD}:AggregatedAttention'}, names=scaffolds.aggregated_attention_names()
    ),
    'skipnet_ffgate1_38': Network(),
    'vcmamba_s': Network(heavy=True),
    'vcmamba_mixer': Network({'fn': 'modelzoo.vision.vcmamba:FourScans'}, names=vcmamba._MIXER),
    'kronecker_self_attention_32': Network(
        {'fn': 'modelzoo.layers.attention.kronecker:KroneckerAttention', 'heads': 8, 'head_width': 64}
    ),
    'tvconv_layer': Network(
        {'fn': 'modelzoo.layers.convolutions.tvconv:TVConv', 'size': (12, 12)}, names=scaffolds.tvconv_names()
    ),
    'tvconv_mobilenet_v2_x0_1': Network(
        {'fn': f'{_SCAFFOLD}:FaceEmbedding'}, names=scaffolds.face_embedding_names(), heavy=True
    ),
    'cse_layer': Network(
        {'fn': 'modelzoo.layers.convolutions.squeeze_excite:SqueezeExcite', 'ratio': 0.5, 'multiple_of': 1},
        names=scse.CHANNEL_NAMES,
    ),
    'snnk_relu': Network({'fn': 'modelzoo.layers.snnk:ReluSnnk', 'features': 24, 'random_features': 32}),
    'sse_layer': Network({'fn': 'modelzoo.layers.convolutions.scse:SpatialSqueeze'}, names=scse.SPATIAL_NAMES),
    'scse_layer': Network({'fn': 'modelzoo.layers.convolutions.scse:ConcurrentSqueeze'}),
    'mae_d96_l3_img64_p8': Network({'fn': f'{_SCAFFOLD}:Autoencoder'}, names=scaffolds.autoencoder_names()),
    # timm's epsilon in B0 is not the authors'.
    'evonorm_b0': Network({'fn': 'modelzoo.layers.norms.evonorm:EvoNormB0', 'epsilon': 1e-3}),
    'evonorm_s0': Network({'fn': 'modelzoo.layers.norms.evonorm:EvoNormS0', 'groups': 8}),
    'pre_ln_vit_small': Network({'fn': f'{_SCAFFOLD}:pre_ln_vit'}, names=scaffolds.zero_mean_vit_names(), heavy=True),
    'pre_rmsnorm_vit_small': Network({'fn': f'{_SCAFFOLD}:PreRmsViT'}, names=scaffolds.zero_mean_vit_names('vit/')),
    'pre_crmsnorm_vit_small': Network(
        {'fn': f'{_SCAFFOLD}:pre_crms_vit'}, names=scaffolds.zero_mean_vit_names(), heavy=True
    ),
    'hybridnorm_small': Network({'fn': f'{_SCAFFOLD}:hybrid_norm_lm'}, names=scaffolds.hybrid_norm_names()),
    # Residual connections.
    'normformer_small': Network({'fn': f'{_SCAFFOLD}:NormFormerDecoder'}, names=scaffolds.normformer_names()),
    'rezero_transformer': Network({'fn': f'{_SCAFFOLD}:rezero'}, names=scaffolds.rezero_names()),
    'fixup_resnet20': Network(),
    'liresnet_d4_w16_cifar10': Network({'name': 'liresnet18_w256_cifar', 'num_classes': 10, 'depth': 4, 'width': 16}),
    'liresnet_bound_d3_w8': Network({'fn': 'tests.goldens.bounded:LogitsAndBound'}, names=bounded.NAMES),
    'hyper_connections_vit': Network(
        {'fn': f'{_SCAFFOLD}:hyper'},
        output=1e-3,  # the reference's own reruns differ by 4e-5
        gradient=2e-3,
        names=scaffolds.hyper_names(),
    ),
    'frac_connections_vit': Network({'fn': f'{_SCAFFOLD}:frac'}, names=scaffolds.hyper_names()),
    'laurel_gemma3n': Network(
        {
            'fn': 'modelzoo.layers.residuals.laurel:LowRank',
            'rank': 16,
            'norm': {'partial': 'modelzoo.layers.norms.norm:RMSNorm', 'epsilon': 1e-6},
        }
    ),
    'ortho_vit_small': Network({'fn': f'{_SCAFFOLD}:OrthoViT'}, names=scaffolds.ortho_vit_names()),
    'ortho_preactresnet18': Network({'fn': f'{_SCAFFOLD}:OrthoResNet'}, names=scaffolds.ortho_resnet_names()),
    'resformer_small': _resformer('resformer_test'),
    'svformer_small': _resformer('svformer_test'),
    # Dense tasks.
    'torchvision_fpn': Network(
        {'fn': f'{_SCAFFOLD}:FeaturePyramid', 'width': 12, 'channels': (6, 8, 10)}, names=scaffolds.fpn_names()
    ),
    'torchvision_fcos_head': Network({'fn': f'{_SCAFFOLD}:DetectionHead'}, names=scaffolds.detection_head_names()),
    # Generation.
    'edm_unet_c8_8': Network({'fn': f'{_SCAFFOLD}:Denoised'}, names=scaffolds.unet_names()),
    'edm_unet_c8_8_skip': Network(
        {'fn': f'{_SCAFFOLD}:Denoised', 'skip_scale': (0.6, 1.0)}, names=scaffolds.unet_names()
    ),
    # Sequences.
    'mamba1_layer': Network({'fn': 'modelzoo.layers.mixers.mamba:Mamba'}, names=mamba.NAMES),
    'mamba1_lm_small': Network(
        _backbone('mamba_130m', width=64, depth=2, vocabulary=256, tied=False),
        output=2e-4,
    ),
    'gla_lm_small': Network(_backbone('gla_340m', width=64, depth=2, vocabulary=256, mixer={'heads': 2})),
    'gla_layer': Network({'fn': 'modelzoo.sequence.gla:GatedLinearAttention', 'heads': 2}),
    'gla_op': Network({'fn': f'{_SCAFFOLD}:GatedLinearAttention', 'values': 32}, channels=-1, names=()),
    's4d_layer': Network({'fn': 'modelzoo.sequence.s4d:S4D', 'states': 16}, channels=1),
    'neural_ode_rk4': _ode('TimeMlp', steps=4, hidden=32),
    'neural_ode_conv_rk4': _ode('TimeConvs', steps=2),
    's4_dplr_layer': Network({'fn': 'modelzoo.sequence.s4:S4', 'states': 16}, channels=1),
    's4d_classifier': Network(_backbone('s4d_example', width=32, depth=2)),
    'sgconv_layer': Network({'fn': 'modelzoo.sequence.sgconv:SGConv', 'places': 256, 'band': 32}, channels=1),
    'sgconv_classifier': Network(
        _backbone('sgconv_example', width=32, depth=2, mixer={'places': 256, 'band': 32, 'bidirectional': True})
    ),
    'long_conv_layer': Network(
        {'fn': 'modelzoo.sequence.long_conv:LongConv', 'places': 128, 'squash': 0.005}, channels=1
    ),
    'long_conv_classifier': Network(
        _backbone('long_conv_example', width=32, depth=2, mixer={'places': 256, 'squash': 0.003, 'bidirectional': True})
    ),
    'orchid_absfreq_dct': _orchid('magnitude', features=5, inner=1, taps=5),
    'orchid_absfreq_fft': _orchid('magnitude', transform='fft'),
    'orchid_corr_dct': _orchid('correlation', features=5, inner=1),
    'hyena_operator': Network({'fn': 'modelzoo.layers.mixers.hyena:Hyena', 'places': 128, 'hidden': 16}),
    'zoology_attention': _zoology('attention', heads=2),
    'zoology_based': _zoology('based', width=48),
    'zoology_baseconv': _zoology('baseconv'),
    'zoology_hyena': _zoology('hyena'),
    'zoology_h3': _zoology('h3', states=8),
    'zoology_mamba': _zoology('mamba'),
    'zoology_rwkv4': _zoology('rwkv4'),
    # Kernels; each implementation runs these in tests/kernels.
    'fftconv_causal_256': _fftconv(16, 256),
    'fftconv_causal_1024': _fftconv(8, 1024),
    'fftconv_causal_4096': _fftconv(4, 4096),
    'fftconv_circular_256': _fftconv(16, 256, circular=True),
    'fftconv_gated_256': _fftconv(16, 256),
    'fftconv_gated_1024': _fftconv(8, 1024),
    'fftconv_gated_4096': _fftconv(4, 4096),
    'fftconv_partial_256': _fftconv(16, 64),
    'fftconv_partial_1024': _fftconv(8, 256),
    'fftconv_partial_4096': _fftconv(4, 1024),
}

_ADAPTER = 'tests.goldens.adapters'

FUNCTIONS: dict[str, Function] = {
    'scatsimclr_ntxent': Function(f'{_ADAPTER}:mean_nt_xent'),
    # `order`, of the models by accuracy, stays inside of greedy_soup.
    'model_soups': Function(f'{_ADAPTER}:soups', only=('uniform', 'greedy', 'ingredients', 'accuracies', 'tried')),
    # `one_dimensional` says that the published code leaves vectors alone: with ours the caller's pattern does.
    'atlas_composition': Function(f'{_ADAPTER}:composition', only=('blockwise', 'partitioned')),
    # What else it answers joins the vote to a linear probe's logits, which is not here.
    'knn_revisit': Function(f'{_ADAPTER}:neighbours', only=('knn',), gradients=False),
    # The rates by depth are the paper's in the adapter: ours begin at 0 with the first block, and divide in training.
    'stochastic_depth': Function(f'{_ADAPTER}:dropped', only=('train', 'eval')),
    # The rearranged image and kernel are the paper's own way to the sum.
    'im2win_conv': Function(f'{_ADAPTER}:convolution'),
    'im2win_conv_stride2': Function(f'{_ADAPTER}:convolution'),
    'prelu_channelwise': Function(f'{_ADAPTER}:rectified'),
    'weight_conditioning': Function(f'{_ADAPTER}:conditioned'),
    'snnk_urf_features': Function('tests.goldens.kernel_features:features_and_layer'),
    'snnk_asym_cos': Function('tests.goldens.kernel_features:cosine'),
    'snnk_asym_cos_m': Function('tests.goldens.kernel_features:cosine'),
    'gdn_parameter_gradients': Function(f'{_ADAPTER}:divided', settings={'least': 'beta_min'}),
    'fast_scaling_factors': Function(f'{_ADAPTER}:scaled'),
    # The ratios are given back as they came.
    'fast_scaling_compatibility': Function(f'{_ADAPTER}:fitted', only=('widths', 'groups')),
    # Of dynamic routing for segmentation, whose gates DiT's routing has here: no proof of DiT, which has no code.
    'dynamic_routing_gate_budget': Function(f'{_ADAPTER}:routed'),
    # Certified robustness.
    'liresnet_power_iteration': Function('tests.goldens.bounded:power_of_residual'),
    'liresnet_power_detached': Function('tests.goldens.bounded:power_of_strided'),
    'liresnet_cholesky_orth': Function('tests.goldens.bounded:orthogonal_rows'),
    'gloro_emma_loss': Function('tests.goldens.bounded:robust_loss'),
    'gloro_margin_loss': Function('tests.goldens.bounded:robust_loss'),
    'gloro_trades_loss': Function('tests.goldens.bounded:robust_loss'),
    # Figures of evaluations.
    'seg_confusion_miou': Function(f'{_ADAPTER}:confusion_and_more'),
    'det_coco_ap': Function(f'{_ADAPTER}:average_precision', settings={'side': 'image'}),
    'det_focal_loss': Function(f'{_ADAPTER}:focal'),
    'det_nms': Function(f'{_ADAPTER}:suppressed'),
    # The anchors are squares around the places, of which ours are points.
    'fcos_loss': Function(
        f'{_ADAPTER}:fcos_loss', only=('classification', 'bbox_regression', 'bbox_ctrness', 'matched', 'gt')
    ),
    # The generalized, distance and complete IoU are losses; of the gradient these have a part.
    'det_box_ious': Function(f'{_ADAPTER}:box_ious', only=('iou',), gradients=False),
    # The mean over flips and transposes is what a network answers, and no figure.
    'sr_metrics': Function(f'{_ADAPTER}:restoration', only=('psnr_rgb', 'psnr_y', 'ssim_y')),
    'si_snr_pit': Function(f'{_ADAPTER}:separated'),
    'aupro_metric': Function(f'{_ADAPTER}:region_overlap'),
    # The scores are the paper's; here are the figures of three that are a line each.
    'mood_scores': Function(
        f'{_ADAPTER}:told_apart',
        only=tuple(f'{score}_auroc_fpr95' for score in ('MSP', 'MaxLogit', 'Energy')),
    ),
    # Generation.
    'diffusion_q_sample': Function(f'{_ADAPTER}:noisy'),
    'vit_vqgan_quantizer': Function(f'{_ADAPTER}:quantized', {'codebook_': 'codebook'}),
    # The last of five steps divides by a deviation of 0.002 what float32 has rounded, there as here.
    'edm_heun_sampler': Function(f'{_ADAPTER}:drawn_by_heun', output=1e-4),
}

# Recorded data that a test of its own compares with, for it is neither a network nor a function of arrays.
DATA = {
    'mqar_v128_l64_kv4': 'tests/data/test_mqar.py',
    'mqar_v128_l64_kv4_random': 'tests/data/test_mqar.py',
    'mqar_v64_l62_kv4': 'tests/data/test_mqar.py',
}
