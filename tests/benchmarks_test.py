"""What the figures of the benchmarks rest on beside clocks: which kernel is whose, which rivals."""

from __future__ import annotations

import collections

import pytest

from benchmarks import zoo_profile, zoo_rivals
from ncap_jax.zoo import MODELS


@pytest.mark.parametrize(
    ("name", "library"),
    [
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", True),
        ("nvjet_sm90_tst_64x64_64x13_2x1_v_bz_splitK_NTT", True),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s16816gemm_bf16_64x128>", True),
        ("void convolve_common_engine_float_NHWC<__nv_bfloat16>", True),
        ("gemm_fusion_dot_12", True),
        ("input_convert_reduce_fusion_11", False),
        ("loop_convert_fusion", False),
        ("input_scatter_fusion", False),
        ("triton_poi_fused__to_copy_convolution_relu_2", False),
        ("triton_red_fused_convolution_backward_native_batch_norm_backward_54", False),
        ("void at::native::multi_tensor_apply_kernel<FusedOptimizer>", False),
    ],
)
def test_kernels_of_libraries_are_told_from_generated_ones(name, library):
    assert zoo_profile.is_library(name) == library


def test_a_profile_adds_up():
    spent = collections.Counter({"nvjet_a": 2.0, "loop_add_fusion": 1.0, "gemm_fusion_dot": 0.5})
    found = zoo_profile.summary(spent)
    assert (found["library_ms"], found["generated_ms"], found["kernels"]) == (2.5, 1.0, 3)
    assert found["longest"][0] == ["nvjet_a", 2.0]


def test_rivals_are_models_of_the_registry():
    assert zoo_rivals.KERAS.keys() | zoo_rivals.TORCH.keys() <= MODELS.keys()
