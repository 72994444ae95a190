"""Operations of the zoo's networks for one scaled image at their own size, without a head.

As XLA counts them in the program before it is compiled (`ncap_jax.measure.inference.count`, which
the tests hold them to): written down, because tracing a deep network takes a second. A
multiplication and its addition count as two. Another version of JAX may count a little more or
less.
"""

from __future__ import annotations

from collections.abc import Mapping

FLOPS: Mapping[str, int] = {
    "tiny_plain": 5_315_264,
    "tiny_plain_wide": 11_318_064,
    "tiny_plain_deep": 10_413_552,
    "tiny_resnet": 13_453_656,
    "tiny_resnet_deep": 12_722_160,
    "tiny_senet": 11_396_628,
    "tiny_depthwise": 635_168,
    "tiny_inverted": 1_376_544,
    "tiny_densenet": 7_862_122,
    "tiny_inception": 3_760_912,
    "tiny_convnext": 3_766_400,
    "tiny_plain_barely": 5_315_264,
    "tiny_resnet_random": 13_453_656,
    "mobilenet_025": 86_099_592,
    "mobilenet_050": 307_072_224,
    "mobilenet_075": 662_918_016,
    "mobilenet": 1_153_636_864,
    "mobilenet_12blocks": 1_049_613_760,
    "mobilenetv2_035": 126_136_792,
    "mobilenetv2_050": 204_552_768,
    "mobilenetv2_075": 436_224_064,
    "mobilenetv2": 622_473_024,
    "mobilenetv2_130": 1_047_044_992,
    "mobilenetv2_140": 1_194_472_704,
    "vgg16": 29_737_859_072,
    "vgg19": 37_716_443_136,
    "resnet50": 7_441_677_312,
    "resnet101": 14_524_620_800,
    "resnet152": 21_655_570_432,
    "resnet50v2": 6_704_978_944,
    "resnet101v2": 13_786_218_496,
    "resnet152v2": 20_915_079_168,
    "densenet121": 5_603_978_240,
    "densenet169": 6_643_073_536,
    "densenet201": 8_501_356_544,
    "inceptionv3": 10_982_508_544,
    "inceptionresnetv2": 25_789_685_760,
    "xception": 16_769_071_104,
    "alexnet": 1_309_338_368,
    "cifar_resnet20": 74_571_840,
    "cifar_resnet32": 126_265_152,
    "cifar_resnet44": 177_958_464,
    "cifar_resnet56": 229_651_776,
    "squeezenet": 509_321_920,
    "mobilenet_025_folded": 27_691_110,
    "mobilenet_050_folded": 155_358_832,
    "mobilenet_075_folded": 484_227_232,
    "mobilenet_folded": 1_148_550_400,
    "mobilenetv2_folded": 615_726_720,
    "mobilenetv2_folded_birds": 615_726_720,
    "mobilenetv2_folded_insects": 615_726_720,
    "vit_ti16": 2_646_435_072,
    "vit_s16": 9_475_917_824,
    "vit_b16": 35_684_319_232,
    "convnext_tiny": 9_515_321_344,
}
