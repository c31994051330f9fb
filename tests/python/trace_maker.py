"""Traces of the model as other people's compilers and profilers would write them, with the truth beside them.

A compiler is a set of kernel templates: what one ViT layer, one prefill layer and one expert layer launch, and what
stands before, between and after them. Durations follow the published shares of the stages, with jitter.
"""

import gzip
import json
import random

NATIVE = "void at::native::"
ELEMENTWISE = NATIVE + "vectorized_elementwise_kernel<4, at::native::{}, std::array<char*, {}ul> >(int, at::native::{})"


def elementwise(functor, inputs=3):
    return ELEMENTWISE.format(functor, inputs, functor)


ADD = elementwise("CUDAFunctor_add<c10::BFloat16>")
MUL = elementwise("BinaryFunctor<c10::BFloat16, c10::BFloat16, c10::BFloat16, at::native::binary_internal::MulFunctor<float> >")
COPY = NATIVE + "unrolled_elementwise_kernel<at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}>"
TO_FLOAT = NATIVE + "unrolled_elementwise_kernel<at::native::float8_copy_kernel_cuda, LoadWithCast<1>, StoreWithCast<1> >"
CAT = NATIVE + "(anonymous namespace)::CatArrayBatchedCopy<at::native::(anonymous namespace)::OpaqueType<2u>, unsigned int, 4, 64, 64>"
LAYER_NORM = NATIVE + "(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>(int, float, c10::BFloat16 const*)"
GELU = elementwise("GeluCUDAKernelImpl(at::TensorIteratorBase&, at::native::GeluType)::{lambda()#1}", 2)
SILU = elementwise("silu_kernel(at::TensorIteratorBase&)::{lambda()#1}", 2)
SOFTMAX = NATIVE + "(anonymous namespace)::cunn_SoftMaxForwardSmem<4, float, float, float, at::native::SoftMaxForwardEpilogue>"
RSQRT = elementwise("rsqrt_kernel_cuda(at::TensorIteratorBase&)::{lambda()#2}", 2)
POW = elementwise("pow_tensor_scalar_kernel_impl<float, float>(at::TensorIteratorBase&, float)::{lambda(float)#1}", 2)
MEAN = NATIVE + "reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float, float, float, float>, unsigned int, float, 4> >"
NEG = elementwise("neg_kernel_cuda(at::TensorIteratorBase&)::{lambda()#2}", 2)
COS, SIN = elementwise("cos_kernel_cuda(at::TensorIteratorBase&)", 2), elementwise("sin_kernel_cuda(at::TensorIteratorBase&)", 2)
FLASH = "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<96, 128, 64, 4, false, false, cutlass::bfloat16_t> >"

RMS_NORM = [(TO_FLOAT, 1), (POW, 1), (MEAN, 1.5), (ADD, 1), (RSQRT, 1), (MUL, 1), (ADD, 1), (MUL, 1), (COPY, 1)]
EAGER_ROPE = [(MUL, 1), (NEG, 1), (CAT, 1.2), (MUL, 1), (ADD, 1)] * 2


def gemm(tile):
    return f"nvjet_sm90_tst_{tile}_h_bz_TNT"


def eager_gemma(size, extra=(), share=1.0):
    """A Gemma layer of eager PyTorch: every op a kernel. share: of the products' time."""
    layer = (RMS_NORM + list(extra) + [(gemm(f"{size}x64_64x4_2x1"), 6), (gemm(f"{size}x32_64x6_2x1"), 3), (gemm(f"{size}x32_64x6_2x1"), 3)]
            + EAGER_ROPE + [(CAT, 1), (CAT, 1), (COPY, 1.5), (COPY, 1.5), (gemm(f"{size}x16_64x8_1x1"), 4), (MUL, 1), (ADD, 1),
                            (SOFTMAX, 2), (COPY, 1), (gemm(f"{size}x24_64x8_1x1"), 4), (COPY, 1), (gemm(f"{size}x64_64x4_1x2"), 5), (ADD, 1)]
            + RMS_NORM + list(extra) + [(gemm(f"{size}x256_64x4_2x1"), 25), (GELU, 2), (gemm(f"{size}x256_64x4_2x1"), 25), (MUL, 2),
                                        (gemm(f"{size}x128_64x5_2x1"), 24), (ADD, 1)])
    return [(name, us * share if "nvjet" in name else us) for name, us in layer]


ADA = [(gemm("8x192_64x2"), 1.5), (COPY, 1), (MUL, 1), (ADD, 1)]

EAGER = {
    "camera": [(TO_FLOAT, 1), ("void cudnn::engines_precompiled::nchwToNhwcKernel<float, float, float>", 2),
               ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x128x16", 8), (COPY, 1), (ADD, 1), (TO_FLOAT, 1)],
    "vit": [(LAYER_NORM, 1), (gemm("128x48"), 4), (gemm("128x48"), 4), (gemm("128x48"), 4), (FLASH, 6), (COPY, 1), (gemm("128x48"), 4),
            (ADD, 1), (LAYER_NORM, 1), (gemm("128x96"), 7), (GELU, 2), (gemm("128x64"), 7), (ADD, 1)],
    "camera_end": [(LAYER_NORM, 1), (gemm("128x112"), 5)],
    "embed": [(NATIVE + "(anonymous namespace)::indexSelectLargeIndex<c10::BFloat16, long, unsigned int, 2, 2, -2, true>", 1), (MUL, 1), (CAT, 2), (CAT, 1),
              (NATIVE + "tensor_kernel_scan_innermost_dim<long, std::plus<long> >", 2), (COPY, 1), (COPY, 1), (COS, 1), (SIN, 1)],
    "prefill": eager_gemma(256, share=3.0),
    "prefill_end": RMS_NORM,
    "step": [(gemm("8x8"), 2), (COS, 1), (SIN, 1), (CAT, 1), (gemm("8x16"), 2), (SILU, 1), (gemm("8x16"), 2), (CAT, 1), (COPY, 1),
             (NATIVE + "tensor_kernel_scan_innermost_dim<long, std::plus<long> >", 2), (COPY, 1), (COS, 1), (SIN, 1)],
    "expert": eager_gemma(16, share=0.3),
    "expert05": eager_gemma(16, ADA, 0.3),
    "step_end": RMS_NORM + [(gemm("8x32"), 2), (MUL, 1), (ADD, 1)],
}


def triton(kind, ops, number):
    return f"triton_{kind}_fused_{ops}_{number}"


ROPE = "_to_copy_add_cat_cos_mul_neg_sin_slice_transpose_unsqueeze_view"

COMPILED = {
    "camera": [(triton("poi", "_to_copy_convolution", 1), 3), ("implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1>", 40),
               (triton("red", "_to_copy_add_convolution_embedding_native_layer_norm", 2), 3)],
    "vit": [("nvjet_sm90_tst_128x72_64x7_h_bz_TNN", 5), ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7", 6),
            ("nvjet_sm90_tst_48x64_64x15_4x2_h_bz_TNN", 4), (triton("red", "add_native_layer_norm", 5), 2), ("nvjet_sm90_tst_136x64_64x8_1x2_h_bz_TNN", 7),
            (triton("poi", "addmm_gelu_view", 6), 3), ("nvjet_sm90_tst_96x64_64x10_2x4_h_bz_splitK_TNN", 8),
            ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", 3), (triton("red", "add_addmm_native_layer_norm_view", 7), 3)],
    "camera_end": [("nvjet_sm90_tst_64x64_64x13_2x1_v_bz_bias_TNT", 5)],
    "embed": [(triton("red", "_to_copy_add_cat_embedding_mean_mul_pow_rsqrt_view", 11), 5), (triton("per", "_to_copy_cat_cumsum", 12), 2)],
    "prefill": [("nvjet_sm90_tst_192x88_64x6_2x1_v_bz_TNT", 14), (triton("poi", ROPE, 14), 3), (triton("poi", ROPE, 15), 7),
                ("void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_bf16_128x128_64x3_tn_align2>", 25),
                (triton("per", "add_bitwise_and_le_mul_prepare_softmax_online", 17), 16), ("nvjet_sm90_tst_64x200_64x6_2x1_v_bz_NNT", 7),
                ("nvjet_sm90_tst_64x200_64x6_2x1_v_bz_TNT", 11), (triton("red", "_to_copy__unsafe_view_add_mean_mul_pow_rsqrt", 21), 4),
                ("nvjet_sm90_tst_256x160_64x4_2x1_v_bz_coopA_TNT", 137), (triton("poi", "_unsafe_view_gelu_mul_slice", 22), 20),
                ("nvjet_sm90_tst_128x200_64x5_2x1_v_bz_coopA_splitK_TNT", 66), ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", 8),
                (triton("red", "_to_copy__unsafe_view_add_mean_mul_pow_rsqrt", 23), 4)],
    "prefill_end": [],
    "step": [(triton("poi", "_to_copy_cat_cos_linspace_mul_pow_reciprocal_sin_unsqueeze", 1), 3), ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32", 4),
             (triton("poi", "addmm_silu_view", 4), 1), ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_64x64_32x6_tn_align4>", 6)],
    "expert": [("nvjet_sm90_tst_64x8_64x16_4x2_h_bz_TNT", 5), (triton("poi", ROPE, 10), 3), (triton("poi", ROPE, 11), 2),
               ("void gemmSN_TN_kernel<float, 128, 16, 2, 4, 6, 7, false>", 9), (triton("per", "add_mul_prepare_softmax_online", 14), 2),
               ("nvjet_sm90_tst_64x8_64x16_4x2_h_bz_NNT", 3), ("nvjet_sm90_tst_64x8_64x16_4x2_h_bz_TNT", 5),
               (triton("per", "_to_copy__unsafe_view_add_mean_mul_pow_rsqrt", 22), 1.4), ("nvjet_sm90_tst_64x16_64x16_2x1_v_bz_TNT", 7),
               (triton("poi", "_unsafe_view_gelu_mul_slice", 19), 1.4), ("nvjet_sm90_tst_64x8_64x16_4x2_h_bz_splitK_TNT", 5.5),
               ("void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16>", 1.8), (triton("per", "_to_copy__unsafe_view_add_mean_mul_pow_rsqrt", 23), 1.4)],
    "step_end": [(triton("poi", "_to_copy__unsafe_view_add_mean_mul_pow_rsqrt_slice", 27), 1.2), ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x32", 7),
                 (elementwise("BUnaryFunctor<float, float, float, MulFunctor<float> >", 2), 1)],
}
COMPILED["expert05"] = COMPILED["expert"] + [("nvjet_sm90_tst_32x8_64x16_1x1_h_bz_TNT", 2)]


def cijk(tile):
    return f"Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_{tile}_MI16x16x1_SN_LDSB1_AFC1_AFEM1_AFEM1_ASEM1_CLR1_CADS0_DTVA0"


HIP = {
    "camera": [("Im2d2Col_v2", 28), ("Cijk_Ailk_Bljk_SB_MT128x32x32_MI16x16x4x1_SN_1LDSB1", 15), (triton("red", "add_convolution_embedding_native_layer_norm", 0), 5)],
    "vit": [(cijk("MT64x64x128"), 10), ("attn_fwd", 21), (cijk("MT64x32x128"), 9), (triton("per", "add_native_layer_norm", 10), 5), (cijk("MT64x96x128"), 12),
            (triton("poi", "gelu", 6), 5), (cijk("MT64x96x64"), 19), (triton("per", "add_native_layer_norm", 12), 5)],
    "camera_end": [(cijk("MT32x64x128"), 9)],
    "embed": [(triton("poi", "embedding_mul", 0), 5), (NATIVE + "(anonymous namespace)::CatArrayBatchedCopy_contig", 6), (triton("red", "cumsum", 0), 5)],
    "prefill": [(triton("red", "_to_copy_add_mean_mul_pow_rsqrt", 0), 5), (cijk("MT64x96x128"), 17), (triton("poi", "add_cat_mul_neg_slice_transpose_view", 0), 6),
                (triton("poi", "add_cat_mul_neg_slice_transpose_view", 1), 5),
                ("_ZN7ck_tile6kentryINS_8gfx950_tELi1ENS_13FmhaFwdKernelINS_23BlockFmhaPipelineQRKSVS", 53), ("aiter::bf16gemm_fp32bf16_tn_96x64_pf3_splitk", 19),
                (triton("per", "_to_copy_add_mean_mul_pow_rsqrt", 1), 5), (cijk("MT256x144x64"), 95), ("_gelu_tanh_and_mul_kernel", 20), (cijk("MT128x160x64"), 64),
                (triton("poi", "add", 2), 5)],
    "prefill_end": [],
    "step": [(triton("poi", "_to_copy_cat_cos_linspace_mul_pow", 36), 5), (cijk("MT16x16x64"), 9), (triton("poi", "addmm_silu_view", 4), 5), (cijk("MT16x16x64"), 9)],
    "expert": [(cijk("MT16x16x1024"), 6), (triton("poi", ROPE, 12), 5), (triton("poi", ROPE, 13), 5), (elementwise("FillFunctor<int>", 1), 5), ("attn_fwd", 7),
               (cijk("MT16x16x512"), 6), (triton("red", "_to_copy_add_mean_mul_pow_rsqrt", 22), 5), (cijk("MT32x16x256"), 8), ("_gelu_tanh_and_mul_kernel", 5),
               (cijk("MT16x16x512"), 8), (triton("red", "_to_copy_add_mean_mul_pow_rsqrt", 24), 5)],
    "step_end": [(triton("per", "_to_copy_add_mean_pow", 31), 5), (cijk("MT32x16x128"), 9), (triton("poi", "add_addmm_mul_view", 35), 5)],
}
HIP["expert05"] = HIP["expert"] + [(cijk("MT16x16x256"), 6)]

# Few large kernels, as a hand-written engine launches them.
LEAN = {
    "camera": [("patch_embed", 9)],
    "vit": [("ln_qkv", 12), ("cutlass::device_kernel<FlashAttention>", 7), ("gemm_residual<128>", 8), ("ln_fc1_gelu", 14), ("gemm_residual<256>", 13)],
    "camera_end": [("ln_project", 6)],
    "embed": [("embed_text", 2)],
    "prefill": [("rms_qkv_rope", 16), ("cutlass::device_kernel<FlashAttention>", 20), ("gemm_residual<512>", 12), ("rms_gate_up_gelu", 150), ("gemm_residual<1024>", 80)],
    "prefill_end": [],
    "step": [("time_mlp", 3)],
    "expert": [("rms_qkv_rope_small", 6), ("decode_attention", 5), ("gemv_residual<2048>", 5), ("rms_gate_up_small", 7), ("gemv_residual<4096>", 6)],
    "step_end": [("final_norm_euler", 3)],
}
LEAN["expert05"] = [("ada_norm", 2)] + LEAN["expert"]

COMPILERS = {"eager": EAGER, "compiled": COMPILED, "hip": HIP, "lean": LEAN}
STAGES = ("ViT", "LLM prefill", "Diffusion", "Other")
SCALE = {"eager": 1.4, "compiled": 1.0, "hip": 1.0, "lean": 0.9}


class Trace:
    """Events, and the truth about them: ms and kernels of each stage per whole inference, totals of everything."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.kernels = []  # (name, ts, dur, stage, grid)
        self.now = 1000.0

    def launch(self, kernel, stage, scale=1.0, gap=0.6, grid=None):
        name, us = kernel
        duration = round(max(0.5, us * scale * self.random.uniform(0.9, 1.1)), 3)
        self.kernels.append((name, round(self.now, 3), duration, stage, grid))
        self.now += duration + gap * self.random.uniform(0.5, 1.5)


def make(compiler="compiled", cameras=3, batched=False, steps=10, inferences=1, prefill_layers=18, pi05=False, autotune=0.0,
         insert=0.0, pause_us=3000.0, gap_us=0.6, seed=1, last_layers=None, first_layer_differs=False, batch=1):
    """last_layers: the last step stops after so many layers and nothing follows. autotune: share of products with
    another tile in some layers. insert: chance of one more kernel in a layer."""
    parts, trace = COMPILERS[compiler], Trace(seed)
    rng, scale = trace.random, SCALE[compiler]

    def run(part, stage, factor=1.0):
        for kernel in parts[part]:
            trace.launch(kernel, stage, scale * factor, gap_us)

    def layer(part, stage, factor, index):
        for place, (name, us) in enumerate(parts[part]):
            if first_layer_differs and index == 0 and place == 0:
                name = "triton_red_fused_first_of_its_kind_0"
            if rng.random() < autotune and ("nvjet" in name or "Cijk" in name or "gemm" in name):
                name = name.replace("64", rng.choice(["96", "128", "192"]), 1)
            trace.launch((name, us), stage, scale * factor, gap_us)
            if rng.random() < insert / len(parts[part]):
                trace.launch(("Memset_kernel_of_the_library", 1), stage, 1, gap_us)

    for inference in range(inferences):
        if inference:
            trace.now += pause_us
        passes = 1 if batched else cameras
        factor = cameras / passes * batch
        for _ in range(passes):
            run("camera", "ViT", factor)
            for index in range(27):
                layer("vit", "ViT", factor * 0.55 if compiler == "hip" else factor * 0.9, index)
            run("camera_end", "ViT", factor)
        run("embed", "ViT")
        for index in range(prefill_layers):
            layer("prefill", "LLM prefill", (cameras * 256 + 20) / 788 * batch, index)
        if prefill_layers == 17:
            for kernel in parts["prefill"][:3]:
                trace.launch(kernel, "LLM prefill", scale, gap_us)
        run("prefill_end", "LLM prefill")
        for step in range(steps):
            cut = last_layers is not None and inference == inferences - 1 and step == steps - 1
            run("step", "Diffusion")
            for index in range(last_layers if cut else 18):
                layer("expert05" if pi05 else "expert", "Diffusion", (1 if compiler != "eager" else 0.8) * (1 + 0.05 * batch), index)
            if not cut:
                run("step_end", "Diffusion")
    return trace


def truth(trace, inferences):
    stages = {name: {"ms": 0.0, "kernels": 0} for name in STAGES}
    for _, _, duration, stage, _ in trace.kernels:
        stages[stage]["ms"] += duration * 1e-3 / inferences
        stages[stage]["kernels"] += 1 / inferences
    return {"stages": stages, "kernel_total_ms": sum(k[2] for k in trace.kernels) * 1e-3, "kernel_count": len(trace.kernels)}


def events(trace, style="pytorch", name_length=None):
    """style: pytorch, rocprofv3 (cat kernel and nothing else), gpu (cat gpu and nothing else)."""
    rows = []
    for index, (name, ts, duration, _, _) in enumerate(trace.kernels):
        name = name[:name_length] if name_length else name
        if style == "pytorch":
            rows.append({"ph": "X", "cat": "kernel", "name": name, "pid": 0, "tid": 7, "ts": ts, "dur": duration,
                         "args": {"External id": 5, "device": 0, "stream": 7, "correlation": index, "registers per thread": 32}})
        else:
            rows.append({"name": name, "ph": "X", "cat": "gpu" if style == "gpu" else "kernel", "ts": ts, "dur": duration, "pid": 1, "tid": 1})
    if style == "pytorch":
        rows.append({"ph": "X", "cat": "cuda_runtime", "name": "cudaGraphLaunch", "pid": 9, "tid": 9, "ts": 990.0, "dur": 5.5, "args": {"External id": 5}})
        rows.append({"ph": "X", "cat": "cpu_op", "name": "aten::mm", "pid": 9, "tid": 9, "ts": 980.0, "dur": 25.5,
                     "args": {"External id": 5, "Input Dims": [[4, 8], [8, 16]]}})
        rows.append({"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD", "pid": 0, "tid": 7, "ts": 985.0, "dur": 2.0, "args": {}})
    return rows


def write(path, rows, form="object", indent=None):
    """form: object, array, reversed (keys the other way round and other keys around), gzip."""
    if form == "array":
        text = json.dumps(rows, indent=indent)
    elif form == "reversed":
        rows = [dict(reversed(list(row.items()))) for row in rows]
        text = json.dumps({"schemaVersion": 1, "nested": {"traceEvents": [1, {"a": "]}"}]}, "traceEvents": rows, "later": ["x", {"y": None}]}, indent=1)
    else:
        text = json.dumps({"displayTimeUnit": "ms", "traceEvents": rows, "traceName": "t"}, indent=indent)
    data = text.encode()
    path.write_bytes(gzip.compress(data, 1) if form == "gzip" else data)
    return path
