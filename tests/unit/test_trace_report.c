/* Reports over the published traces and over small made ones; every prefix; no memory. */
#include <math.h>

#include "allocator.h"
#include "base/memory.h"
#include "data.h"
#include "profile/trace_report.h"

static void open_data(trace_report *report, const char *name) {
    char path[1024];
    pi0_error error;
    if (trace_report_open(report, data_path(path, sizeof path, "traces", name), &error) != PI0_OK)
        fail_msg("%s", error.message);
}

static pi0_status open_text(trace_report *report, const char *text, size_t size, pi0_error *error) {
    trace_source *source;
    *report = (trace_report){0};
    pi0_status status = trace_source_memory(&source, text, size, error);
    if (status == PI0_OK) status = trace_report_make(report, source, "memory", error);
    trace_source_close(&source);
    return status;
}

static void must_open(trace_report *report, const char *text) {
    pi0_error error;
    if (open_text(report, text, strlen(text), &error) != PI0_OK) fail_msg("%s: %s", error.message, text);
}

static void near(double found, double expected, double relative) {
    if (!(fabs(found - expected) <= relative * expected)) fail_msg("%.6f, expected %.6f", found, expected);
}

static void h200_is_exact(void **state) {
    (void)state;
    trace_report report;
    open_data(&report, "h200_pi0_torch_profiler.json.gz");
    assert_int_equal(report.trace.kernel_count, 4845);
    near(report.kernel_total_ms, 21.338026, 1e-12);
    near(report.kernel_span_ms, 32.473847, 1e-7);
    assert_int_equal(report.trace.runtime_count, 150);
    assert_string_equal(report.trace.device, "NVIDIA H200");
    assert_int_equal(report.split.inference_count, 1);
    near(report.stages[PI0_STAGE_VIT].ms, 5.203, 0.03);
    near(report.stages[PI0_STAGE_PREFILL].ms, 5.773, 0.03);
    near(report.stages[PI0_STAGE_DENOISE].ms, 10.361, 0.03);
    near(report.stages[PI0_STAGE_VIT].kernels, 1239, 0.03);
    near(report.stages[PI0_STAGE_PREFILL].kernels, 269, 0.03);
    near(report.stages[PI0_STAGE_DENOISE].kernels, 3337, 0.03);
    assert_int_equal(report.split.vit_layers, 81);
    assert_in_range(report.split.prefill_layers, 17, 18);
    assert_int_equal(report.split.denoise_steps, 10);
    assert_int_equal(report.split.step_count, 10);
    assert_true(report.split.complete);
    double all = 0;
    for (int stage = 0; stage < PI0_STAGE_COUNT; stage++) all += report.stages[stage].ms;
    near(all, report.kernel_total_ms, 1e-6);
    double categories = 0;
    for (int op = 0; op < PI0_OP_COUNT; op++) categories += trace_report_op(&report, op).ms;
    near(categories, all, 1e-9);
    near(report.attributed_ms, report.kernel_total_ms, 1e-6);
    trace_report_release(&report);
}

static void mi350_breaks_off(void **state) {
    (void)state;
    trace_report report;
    open_data(&report, "mi350_pi0_torch_profiler.json.gz");
    assert_int_equal(report.trace.kernel_count, 1522);
    near(report.kernel_total_ms, 14.980246, 1e-12);
    assert_int_equal(report.split.inference_count, 1);
    assert_false(report.split.complete);
    assert_int_equal(report.split.vit_layers, 54);
    assert_int_equal(report.split.prefill_layers, 18);
    assert_int_equal(report.split.denoise_steps, 3);
    assert_int_equal(report.split.expert_layers, 6);
    near(report.stages[PI0_STAGE_VIT].ms, 4.884, 0.03);
    near(report.stages[PI0_STAGE_PREFILL].ms, 5.303, 0.03);
    near(report.stages[PI0_STAGE_DENOISE].ms, 4.789, 0.03);
    trace_report_release(&report);
}

static const char small[] =
    "{\"schema\": 1, \"deviceProperties\": [{\"id\": 0, \"name\": \"A \\\"device\\\"\"}], \"traceEvents\": ["
    "{\"args\": {\"External id\": 7, \"grid\": [1, 2, 3]}, \"dur\": 2.5, \"ts\": 10, \"name\": \"gemm\", \"cat\": "
    "\"kernel\", \"ph\": \"X\"},"
    "{\"ph\": \"X\", \"cat\": \"Kernel\", \"name\": \"gemm\", \"ts\": \"20\", \"dur\": \"0.5\", \"args\": {\"External "
    "id\": 7}},"
    "{\"ph\": \"X\", \"cat\": \"gpu\", \"name\": \"soft\\u006dax\", \"ts\": 22, \"dur\": 1},"
    "{\"ph\": \"X\", \"cat\": \"gpu\", \"name\": \"Memcpy HtoD\", \"ts\": 30, \"dur\": 1},"
    "{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"broken\", \"ts\": 30, \"dur\": -1},"
    "{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"broken\", \"ts\": 30, \"dur\": 1e18},"
    "{\"ph\": \"X\", \"cat\": \"kernel\", \"name\": \"broken\", \"ts\": 30},"
    "{\"ph\": \"B\", \"cat\": \"kernel\", \"name\": \"no\", \"ts\": 1, \"dur\": 1},"
    "{\"ph\": \"X\", \"cat\": \"cpu_op\", \"name\": \"aten::mm\", \"ts\": 1, \"dur\": 9, \"args\": {\"External id\": "
    "7, "
    "\"Input Dims\": [[4, 8], [8, 16]]}},"
    "{\"ph\": \"X\", \"cat\": \"cuda_runtime\", \"name\": \"cudaLaunchKernel\", \"ts\": 1, \"dur\": 4}"
    "], \"after\": {\"traceEvents\": 5}}";

static void every_form_is_read(void **state) {
    (void)state;
    trace_report report;
    must_open(&report, small);
    assert_int_equal(report.trace.kernel_count, 3);
    near(report.kernel_total_ms, 0.004, 1e-12);
    near(report.kernel_span_ms, 0.013, 1e-12);
    near(report.runtime_total_ms, 0.004, 1e-12);
    assert_int_equal(report.trace.copy_count, 1);
    assert_int_equal(report.trace.impossible_count, 3);
    assert_string_equal(report.trace.device, "A \"device\"");
    assert_string_equal(report.trace.kernels.names[report.kernels_by_time[0]].text, "gemm");
    assert_string_equal(report.trace.kernels.names[report.kernels_by_time[1]].text, "softmax");
    assert_int_equal(report.op_count, 1);
    assert_int_equal(report.ops[0].calls, 2);
    assert_string_equal(report.trace.shapes.names[report.ops[0].shapes].text, "[[4, 8], [8, 16]]");
    assert_int_equal(report.split.inference_count, 0);
    near(report.idle_ms, 0.009, 1e-9);
    trace_report_release(&report);
}

/* Whatever a file is cut to: an error, or an answer with no more than what is there. */
static void every_prefix_ends_well(void **state) {
    (void)state;
    pi0_error error;
    for (size_t size = 0; size < sizeof small - 1; size++) {
        trace_report report;
        if (open_text(&report, small, size, &error) == PI0_OK) {
            assert_true(report.trace.kernel_count <= 3);
            assert_true(report.note_count > 0);
        }
        trace_report_release(&report);
    }
}

static void no_memory_is_an_error(void **state) {
    (void)state;
    pi0_error error;
    for (int allowed = 0, done = 0; !done; allowed++) {
        trace_report report;
        allocator_log log;
        allocator_begin(&log, allowed);
        pi0_status status = open_text(&report, small, sizeof small - 1, &error);
        done = status == PI0_OK;
        if (!done) assert_int_equal(status, PI0_ERROR_MEMORY);
        trace_report_release(&report);
        allocator_end();
        assert_true(allowed < 1000);
    }
}

/* The same over a real trace, where the structure is looked for too. */
static void no_memory_in_the_structure_is_an_error(void **state) {
    (void)state;
    char path[1024];
    data_path(path, sizeof path, "traces", "mi350_pi0_torch_profiler.json.gz");
    pi0_error error;
    for (int allowed = 0, done = 0; !done; allowed += 7) {
        trace_report report;
        allocator_log log;
        allocator_begin(&log, allowed);
        pi0_status status = trace_report_open(&report, path, &error);
        done = status == PI0_OK;
        if (!done) assert_int_equal(status, PI0_ERROR_MEMORY);
        trace_report_release(&report);
        allocator_end();
        assert_true(allowed < 5000);
    }
}

static void refused(const char *text, const char *says) {
    trace_report report;
    pi0_error error;
    assert_int_equal(open_text(&report, text, strlen(text), &error), PI0_ERROR_FORMAT);
    if (!strstr(error.message, says)) fail_msg("\"%s\" does not say \"%s\"", error.message, says);
    trace_report_release(&report);
}

static void what_is_no_trace_is_refused(void **state) {
    (void)state;
    refused("", "empty file");
    refused("hello", "0x68");
    refused("{}", "without \"traceEvents\"");
    refused("{\"a\": [1, 2], \"traceEvents\": 3}", "without \"traceEvents\"");
    refused("[]", "empty list");
    refused("[{\"ph\"", "before its first event");
    refused("[5]", "expected an event");
    refused("{\"a\" 5}", "not JSON");
}

/* What our own traces carry: ranges of stages, steps and layers; two inferences and part of a third. */
static void ranges_are_believed(void **state) {
    (void)state;
    text_buffer text = {0};
    text_put(&text, "[");
    for (int inference = 0; inference < 3; inference++) {
        int at = inference * 1000;
        text_put_format(&text,
                        "%s{\"ph\":\"X\",\"cat\":\"stage\",\"name\":\"ViT\",\"ts\":%d,\"dur\":100},"
                        "{\"ph\":\"X\",\"cat\":\"layer\",\"name\":\"layer 0\",\"ts\":%d,\"dur\":50},"
                        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"a\",\"ts\":%d,\"dur\":%d}",
                        inference ? "," : "", at, at, at + 10, 20 + inference);
        if (inference == 2) break;
        text_put_format(&text,
                        ",{\"ph\":\"X\",\"cat\":\"stage\",\"name\":\"LLM prefill\",\"ts\":%d,\"dur\":100},"
                        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"b\",\"ts\":%d,\"dur\":30},"
                        "{\"ph\":\"X\",\"cat\":\"stage\",\"name\":\"Diffusion\",\"ts\":%d,\"dur\":200},"
                        "{\"ph\":\"X\",\"cat\":\"step\",\"name\":\"step 0\",\"ts\":%d,\"dur\":90},"
                        "{\"ph\":\"X\",\"cat\":\"step\",\"name\":\"step 1\",\"ts\":%d,\"dur\":90},"
                        "{\"ph\":\"X\",\"cat\":\"kernel\",\"name\":\"c\",\"ts\":%d,\"dur\":40}",
                        at + 100, at + 110, at + 200, at + 205, at + 300, at + 210);
    }
    text_put(&text, "]");
    trace_report report;
    must_open(&report, text.bytes);
    assert_string_equal(report.split.source, "ranges");
    assert_int_equal(report.split.inference_count, 2);
    assert_int_equal(report.split.left_out, 1);
    assert_int_equal(report.split.vit_layers, 1);
    assert_int_equal(report.split.denoise_steps, 2);
    near(report.stages[PI0_STAGE_VIT].ms, 0.0205, 1e-6);
    near(report.stages[PI0_STAGE_PREFILL].ms, 0.030, 1e-6);
    near(report.stages[PI0_STAGE_DENOISE].ms, 0.040, 1e-6);
    trace_report_release(&report);
    memory_release(text.bytes);
}

static void kernels_are_classified(void **state) {
    (void)state;
    static const struct {
        const char *name;
        int op;
        kernel_library library;
    } cases[] = {
        {"nvjet_sm90_tst_64x8_64x16_4x2_h_bz_TNT", PI0_OP_GEMM, LIBRARY_CUBLAS},
        {"void cublasLt::splitKreduce_kernel<32, 16, int>", PI0_OP_GEMM, LIBRARY_CUBLAS},
        {"void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm>", PI0_OP_GEMM, LIBRARY_CUTLASS},
        {"triton_poi_fused_addmm_gelu_view_6", PI0_OP_ACTIVATION, LIBRARY_TRITON},
        {"triton_red_fused_add_native_layer_norm_7", PI0_OP_NORM, LIBRARY_TRITON},
        {"triton_per_fused_add_prepare_softmax_online_14", PI0_OP_ATTENTION, LIBRARY_TRITON},
        {"triton_poi_fused__to_copy_add_cat_cos_mul_neg_sin_slice_12", PI0_OP_ROPE, LIBRARY_TRITON},
        {"triton_tem_fused_addmm_3", PI0_OP_GEMM, LIBRARY_TRITON},
        {"Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT64x64x128", PI0_OP_GEMM, LIBRARY_HIPBLASLT},
        {"aiter::bf16gemm_fp32bf16_tn_96x64_pf3_splitk", PI0_OP_GEMM, LIBRARY_AITER},
        {"_ZN7ck_tile6kentryINS_8gfx950_tELi1ENS_13FmhaFwdKernel", PI0_OP_ATTENTION, LIBRARY_CK},
        {"attn_fwd", PI0_OP_ATTENTION, LIBRARY_FLASH},
        {"void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits>", PI0_OP_ATTENTION, LIBRARY_FLASH},
        {"fmha_cutlassF_bf16_aligned_64x64_rf_sm80", PI0_OP_ATTENTION, LIBRARY_FLASH},
        {"cudnn_generated_fort_native_sdpa_sm90_flash_fprop", PI0_OP_ATTENTION, LIBRARY_CUDNN},
        {"_gelu_tanh_and_mul_kernel", PI0_OP_ACTIVATION, LIBRARY_OTHER},
        {"denoise_linear_gated", PI0_OP_GEMM, LIBRARY_OWN},
        {"pi0_prefill_attention", PI0_OP_ATTENTION, LIBRARY_OWN},
        {"vit_layer_norm", PI0_OP_NORM, LIBRARY_OWN},
        {"", PI0_OP_OTHER, LIBRARY_OTHER},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        kernel_class class = kernel_classify(cases[i].name, strlen(cases[i].name));
        if (class.op != cases[i].op || class.library != cases[i].library)
            fail_msg("%s: %s, %s", cases[i].name, pi0_op_name(class.op), kernel_library_name(class.library));
    }
}

/* Bounded memory: beyond half a million names the rest share one, and totals stay exact. */
static void names_are_bounded(void **state) {
    (void)state;
    trace_names names = {0};
    enum { MANY = 600000 };
    double sum = 0;
    for (int i = 0; i < MANY; i++) {
        char name[16];
        int length = snprintf(name, sizeof name, "k%d", i);
        uint32_t id = trace_names_add(&names, name, (size_t)length);
        assert_true(id != TRACE_NO_NAME);
        trace_names_count(&names, id, 1);
    }
    for (uint32_t i = 0; i < names.count; i++) sum += trace_name_us(&names.names[i]);
    assert_true(names.count <= (1 << 19) + 1);
    assert_true(sum == MANY);
    assert_int_equal(trace_names_add(&names, "k5", 2), 5);
    uint32_t bad = trace_names_add(&names, "\xff", 1);
    assert_int_equal(trace_names_add(&names, "\xff", 1), bad);
    trace_names_release(&names);
    assert_int_equal(trace_names_add(&names,
                                     "a\xff"
                                     "b",
                                     3),
                     0);
    assert_string_equal(names.names[0].text, "a\xef\xbf\xbd"
                                             "b");
    assert_int_equal(trace_names_add(&names,
                                     "a\xff"
                                     "b",
                                     3),
                     0);
    trace_names_release(&names);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(h200_is_exact),
        cmocka_unit_test(mi350_breaks_off),
        cmocka_unit_test(every_form_is_read),
        cmocka_unit_test(every_prefix_ends_well),
        cmocka_unit_test(no_memory_is_an_error),
        cmocka_unit_test(no_memory_in_the_structure_is_an_error),
        cmocka_unit_test(what_is_no_trace_is_refused),
        cmocka_unit_test(ranges_are_believed),
        cmocka_unit_test(kernels_are_classified),
        cmocka_unit_test(names_are_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
