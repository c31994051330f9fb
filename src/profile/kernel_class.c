#include "profile/kernel_class.h"

#include <stdbool.h>
#include <string.h>

#include "pi0.h"

enum { LOOK_BYTES = 1024 }; /* of a name; template arguments beyond tell nothing new */

static bool has(const char *name, const char *word) { return strstr(name, word) != NULL; }
static bool begins(const char *name, const char *word) { return strncmp(name, word, strlen(word)) == 0; }

/* `words` are separated by spaces. */
static bool has_any(const char *name, const char *words) {
    while (*words) {
        char word[40];
        size_t length = strcspn(words, " ");
        memcpy(word, words, length);
        word[length] = 0;
        if (has(name, word)) return true;
        words += length;
        while (*words == ' ') words++;
    }
    return false;
}

static bool is_softmax(const char *name) { return has_any(name, "softmax soft_max"); }
static bool is_norm(const char *name) { return has_any(name, "norm rsqrt") || (has(name, "mean") && has(name, "pow")); }
static bool is_activation(const char *name) { return has_any(name, "gelu silu swiglu geglu sigmoid relu act_and_mul"); }

/* Inductor: triton_<kind>_fused_<the ops it fuses>_<number>; "tem" is a template: a product or attention. */
static int triton_op(const char *name) {
    if (has(name, "triton_tem")) return has_any(name, "flex_attention sdpa") ? PI0_OP_ATTENTION : PI0_OP_GEMM;
    if (is_softmax(name)) return PI0_OP_ATTENTION;
    if ((has(name, "_neg") && has(name, "_cat")) || has_any(name, "rope rotary")) return PI0_OP_ROPE;
    if (is_norm(name)) return PI0_OP_NORM;
    if (is_activation(name)) return PI0_OP_ACTIVATION;
    return PI0_OP_OTHER;
}

/* PyTorch's own kernels, where an eager RMSNorm is a mean, a power, a rsqrt and products. */
static int pytorch_op(const char *name) {
    if (is_softmax(name)) return PI0_OP_ATTENTION;
    if (is_activation(name)) return PI0_OP_ACTIVATION;
    if (is_norm(name) || has_any(name, "meanops pow_tensor")) return PI0_OP_NORM;
    if (has_any(name, "cos_kernel sin_kernel neg_kernel")) return PI0_OP_ROPE;
    if (has_any(name, "gemv gemm dot_kernel")) return PI0_OP_GEMM;
    return PI0_OP_OTHER;
}

static const char attention_words[] = "attn attention fmha flash sdpa mha_";
static const char product_words[] = "gemm gemv cijk_ nvjet cutlass splitk matmul xmma hgmma wgmma cublas wvsplitk "
                                    "skinny_gemms dot_kernel reduce_1block";

static int general_op(const char *name) {
    if (has_any(name, attention_words) || is_softmax(name)) return PI0_OP_ATTENTION;
    if (has_any(name, product_words)) return PI0_OP_GEMM;
    if (has_any(name, "rope rotary")) return PI0_OP_ROPE;
    if (is_activation(name)) return PI0_OP_ACTIVATION;
    if (is_norm(name)) return PI0_OP_NORM;
    return PI0_OP_OTHER;
}

/* This project's kernels are named after stage and op: denoise_qkv_rope, vit_layer_norm. */
static int own_op(const char *name) {
    if (has_any(name, "attention attn softmax")) return PI0_OP_ATTENTION;
    if (has_any(name, "gemm gemv product qkv _proj _fc linear gate_up down mlp matmul split_k splitk"))
        return PI0_OP_GEMM;
    return general_op(name);
}

static int own_stage(const char *name) {
    if (begins(name, "pi0_")) name += 4;
    if (begins(name, "vit_")) return PI0_STAGE_VIT;
    if (begins(name, "prefill_")) return PI0_STAGE_PREFILL;
    if (begins(name, "denoise_")) return PI0_STAGE_DENOISE;
    return -1;
}

static kernel_library library_of(const char *name) {
    if (begins(name, "pi0_") || own_stage(name) >= 0) return LIBRARY_OWN;
    if (begins(name, "triton_")) return LIBRARY_TRITON;
    if (has(name, "cijk_")) return LIBRARY_HIPBLASLT;
    if (has(name, "ck_tile") || has(name, "ck::") || has(name, "2ck1") || begins(name, "_zn2ck")) return LIBRARY_CK;
    if (has(name, "aiter")) return LIBRARY_AITER;
    if (has(name, "cudnn")) return LIBRARY_CUDNN;
    if (has_any(name, "flash fmha attn_fwd")) return LIBRARY_FLASH;
    if (has(name, "at::native") || has(name, "at_cuda_detail") || begins(name, "_zn2at")) return LIBRARY_PYTORCH;
    if (has_any(name, "nvjet cublas splitkreduce_kernel gemvx gemmsn gemmk1 gemv2 xmma")) return LIBRARY_CUBLAS;
    if (has(name, "cutlass")) return LIBRARY_CUTLASS;
    if (begins(name, "ampere_") || begins(name, "volta_") || begins(name, "sm80_") || begins(name, "sm90_"))
        return LIBRARY_CUBLAS;
    return LIBRARY_OTHER;
}

kernel_class kernel_classify(const char *name, size_t length) {
    char lower[LOOK_BYTES + 1];
    if (length > LOOK_BYTES) length = LOOK_BYTES;
    for (size_t i = 0; i < length; i++) lower[i] = (char)(name[i] >= 'A' && name[i] <= 'Z' ? name[i] + 32 : name[i]);
    lower[length] = 0;
    const char *text = begins(lower, "void ") ? lower + 5 : lower;
    kernel_class class = {.library = library_of(text), .stage = -1};
    switch (class.library) {
    case LIBRARY_OWN:
        class.op = own_op(text);
        class.stage = own_stage(text);
        break;
    case LIBRARY_TRITON:
        class.op = triton_op(text);
        break;
    case LIBRARY_PYTORCH:
        class.op = pytorch_op(text);
        break;
    case LIBRARY_HIPBLASLT:
        class.op = PI0_OP_GEMM;
        break;
    default:
        class.op = general_op(text);
    }
    return class;
}

const char *kernel_library_name(kernel_library library) {
    static const char *const names[LIBRARY_COUNT] = {"pi0.c",     "cuBLAS/nvjet", "CUTLASS", "Triton",
                                                     "hipBLASLt", "aiter",        "CK",      "flash attention",
                                                     "cuDNN",     "PyTorch",      "other"};
    return names[library];
}
