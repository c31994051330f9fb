"""pi0 analyze over traces of other compilers and profilers, damaged files and other models."""

import gzip
import json
import random
import resource
import subprocess
import time

import pytest

import trace_maker
from command import DATA, PI0, ok, ok_json, pi0, refused

TRACES = DATA / "traces"
H200, MI350 = TRACES / "h200_pi0_torch_profiler.json.gz", TRACES / "mi350_pi0_torch_profiler.json.gz"
KEYS = {"trace", "inferences", "kernel_total_ms", "kernel_span_ms", "utilization", "kernel_count", "runtime_total_ms", "stages",
        "categories", "kernels", "runtime", "ops", "repeats"}


def stages(answer):
    return {row["name"]: row for row in answer["stages"]}


def near(found, expected, share, slack=0.0):
    return abs(found - expected) <= share * expected + slack


def unknown(answer):
    return answer["stages"] is None and answer["categories"] is None and answer["inferences"] is None and \
        set(answer["repeats"].values()) == {None}


# ---- the published traces ----------------------------------------------------------------------------------------------

def test_h200():
    answer = ok_json("analyze", H200)
    assert set(answer) == KEYS
    assert answer["kernel_count"] == 4845 and round(answer["kernel_total_ms"], 3) == 21.338
    assert round(answer["kernel_span_ms"], 3) == 32.474 and round(answer["utilization"], 3) == 0.657
    assert sum(k["calls"] for k in answer["kernels"]) == 4845
    assert sum(k["ms"] for k in answer["kernels"]) == pytest.approx(answer["kernel_total_ms"], rel=1e-9)
    assert answer["kernels"][0] == {"name": "nvjet_sm90_tst_256x160_64x4_2x1_v_bz_coopA_TNT", "ms": pytest.approx(2.347, abs=1e-3), "calls": 17}
    assert {r["name"]: r["calls"] for r in answer["runtime"]}["cudaLaunchKernel"] == 63
    shapes = {op["name"]: op["shapes"] for op in answer["ops"]}
    assert shapes["aten::mul"] == [[], [1, 10, 32]]
    table = stages(answer)
    assert list(table) == ["ViT", "LLM prefill", "Diffusion", "Other"]
    for name, ms, kernels in (("ViT", 5.203, 1239), ("LLM prefill", 5.773, 269), ("Diffusion", 10.361, 3337)):
        assert near(table[name]["ms"], ms, 0.03) and near(table[name]["kernels"], kernels, 0.03)
    assert sum(row["percent"] for row in answer["stages"]) == pytest.approx(100)
    assert answer["inferences"] == 1
    assert answer["repeats"] == {"vit_layers": 81, "prefill_layers": 17, "denoise_steps": 10, "complete": True}
    assert [c["name"] for c in answer["categories"]] == ["GEMM", "attention", "norm", "RoPE", "activation", "other"]
    assert sum(c["ms"] for c in answer["categories"]) == pytest.approx(answer["kernel_total_ms"], rel=1e-6)


def test_mi350_is_cut_off():
    answer = ok_json("analyze", MI350)
    assert answer["kernel_count"] == 1522 and round(answer["kernel_total_ms"], 3) == 14.980
    assert answer["repeats"] == {"vit_layers": 54, "prefill_layers": 18, "denoise_steps": 3, "complete": False}
    table = stages(answer)
    assert near(table["LLM prefill"]["ms"], 5.30, 0.03) and near(table["Diffusion"]["ms"], 4.79, 0.03)
    assert "less than one whole inference" in pi0("analyze", MI350).stdout


def test_text_and_limits():
    text = ok("analyze", H200, "--top-kernels", 3, "--top-count", 2, "--top-runtime", 1, "--top-ops", 1, "--kernels-per-op", 2)
    for word in ("kernel total", "21.338 ms", "utilization", "LLM prefill", "Diffusion", "cuBLAS/nvjet", "CUTLASS", "Triton",
                 "Top kernels by time", "Top kernels by count", "Runtime calls", "CPU ops", "denoise steps: 10", "idle"):
        assert word in text
    assert "cudaGraphLaunch" not in text  # second of the runtime calls
    answer = ok_json("analyze", H200, "--top-kernels", 3, "--top-ops", 0, "--top-runtime", 1)
    assert [len(answer[k]) for k in ("kernels", "ops", "runtime")] == [3, 0, 1]


def test_standard_input():
    whole = ok_json("analyze", H200)
    for data in (H200.read_bytes(), gzip.decompress(H200.read_bytes())):
        done = subprocess.run([PI0, "analyze", "-", "--json"], input=data, capture_output=True, timeout=60)
        answer = json.loads(done.stdout)
        assert answer.pop("trace") == "-"
        assert answer == {k: v for k, v in whole.items() if k != "trace"}


# ---- other compilers, other shapes -------------------------------------------------------------------------------------

def check(tmp_path, compiler, style="pytorch", name_length=None, form="object", **options):
    made = trace_maker.make(compiler, **options)
    inferences = options.get("inferences", 1)
    truth = trace_maker.truth(made, inferences)
    path = trace_maker.write(tmp_path / "trace.json", trace_maker.events(made, style, name_length), form)
    answer = ok_json("analyze", path)
    assert answer["kernel_count"] == truth["kernel_count"]
    assert answer["kernel_total_ms"] == pytest.approx(truth["kernel_total_ms"], rel=1e-9)
    assert answer["inferences"] == inferences
    for name, row in stages(answer).items():
        expected = truth["stages"][name]
        if name != "Other":
            assert near(row["ms"], expected["ms"], 0.05), (name, row, expected)
            assert near(row["kernels"], expected["kernels"], 0.05, 12), (name, row, expected)
    cameras, batched = options.get("cameras", 3), options.get("batched", False)
    repeats = answer["repeats"]
    assert repeats["complete"] is True
    assert repeats["vit_layers"] == 27 * (1 if batched else cameras)
    assert repeats["prefill_layers"] in (17, 18) and repeats["denoise_steps"] == options.get("steps", 10)
    return answer


COMPILERS = sorted(trace_maker.COMPILERS)
SHAPES = {
    "one after another": {}, "batched": {"batched": True}, "two cameras": {"cameras": 2}, "one camera": {"cameras": 1},
    "17 layers": {"prefill_layers": 17}, "pi05": {"pi05": True}, "5 steps": {"steps": 5}, "1 step": {"steps": 1}, "20 steps": {"steps": 20},
    "two inferences": {"inferences": 2}, "three without a pause": {"inferences": 3, "pause_us": 0.0, "steps": 4}, "batch 8": {"batch": 8, "batched": True},
    "slow host": {"gap_us": 9.0}, "first layer differs": {"first_layer_differs": True},
}


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(tmp_path, compiler, shape):
    check(tmp_path, compiler, seed=7, **SHAPES[shape])


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("style, length", [("rocprofv3", None), ("gpu", None), ("rocprofv3", 64)])
def test_nothing_but_kernels(tmp_path, compiler, style, length):
    answer = check(tmp_path, compiler, style=style, name_length=length, form="array", seed=3)
    assert answer["runtime"] == [] and answer["runtime_total_ms"] is None and answer["ops"] == []


@pytest.mark.parametrize("compiler", ["compiled", "hip"])
def test_names_cut_very_short(tmp_path, compiler):
    check(tmp_path, compiler, style="rocprofv3", name_length=40, seed=4)


@pytest.mark.parametrize("compiler", ["compiled", "hip", "eager"])
def test_products_tuned_differently_from_layer_to_layer(tmp_path, compiler):
    check(tmp_path, compiler, autotune=0.2, seed=5)


@pytest.mark.parametrize("form", ["object", "array", "reversed", "gzip"])
def test_forms(tmp_path, form):
    answer = check(tmp_path, "compiled", form=form, seed=6)
    assert answer["ops"][0]["name"] == "aten::mm" and answer["ops"][0]["shapes"] == [[4, 8], [8, 16]]
    assert answer["runtime"] == [{"name": "cudaGraphLaunch", "ms": 0.0055, "calls": 1}]


def test_events_out_of_order(tmp_path):
    made = trace_maker.make("compiled", seed=8)
    rows = trace_maker.events(made)
    random.Random(1).shuffle(rows)
    answer = ok_json("analyze", trace_maker.write(tmp_path / "trace.json", rows))
    truth = trace_maker.truth(made, 1)["stages"]
    assert all(near(stages(answer)[name]["ms"], truth[name]["ms"], 0.05) for name in ("ViT", "LLM prefill", "Diffusion"))


# ---- parts, damage, other models ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("compiler", COMPILERS)
def test_no_cut_leads_to_a_wrong_split(tmp_path, compiler):
    made = trace_maker.make(compiler, seed=1)
    every, rng = list(made.kernels), random.Random(2)
    told = 0
    for part in range(1, 24):
        made.kernels = every[:len(every) * part // 24 + rng.randrange(15)]
        answer = ok_json("analyze", trace_maker.write(tmp_path / "cut.json", trace_maker.events(made)))
        assert answer["kernel_count"] == len(made.kernels)
        if answer["stages"] is None:
            assert unknown(answer)
            continue
        told += 1
        truth = trace_maker.truth(made, 1)["stages"]
        for name, row in stages(answer).items():
            if row["ms"] is not None and name != "Other":
                assert near(row["ms"], truth[name]["ms"], 0.05, 0.02), (part, name)
    assert told >= 12


def test_a_part_beside_a_whole_is_left_out(tmp_path):
    made = trace_maker.make("compiled", inferences=2, batched=True, seed=9)
    every = list(made.kernels)
    truth = trace_maker.truth(made, 2)["stages"]
    made.kernels = every[:len(every) * 4 // 5]
    path = trace_maker.write(tmp_path / "trace.json", trace_maker.events(made))
    answer = ok_json("analyze", path)
    assert answer["inferences"] == 1 and answer["repeats"]["complete"] is True and answer["repeats"]["denoise_steps"] == 10
    for name in ("ViT", "LLM prefill", "Diffusion"):
        assert near(stages(answer)[name]["ms"], truth[name]["ms"], 0.05)
    assert "only in part" in pi0("analyze", path).stderr


def layers(rng, rows, names, count, us):
    for _ in range(count):
        for name in names:
            rows.append((name, us * rng.uniform(0.9, 1.1)))


def other_models():
    rng = random.Random(3)
    llama, vit, resnet, steps, vlm, noise = [], [], [], [], [], []
    block = [f"kernel_{c}" for c in "abcdefghij"]
    layers(rng, llama, block, 32, 50)
    for _ in range(20):
        llama.append(("sample", 3))
        layers(rng, llama, [n + "_small" for n in block], 32, 5)
    layers(rng, vit, block, 24, 20)
    for c in range(50):
        layers(rng, resnet, [f"conv_{c % 4}", "bn", "relu"], 1, 10)
    for _ in range(30):  # a diffusion transformer of 28 blocks
        steps.append(("time", 2))
        layers(rng, steps, block, 28, 10)
    layers(rng, vlm, ["v_" + n for n in block], 27, 10)  # the same eyes, another language model
    vlm.append(("project", 5))
    for _ in range(12):
        vlm.append(("sample", 3))
        layers(rng, vlm, ["l_" + n for n in block], 28, 12)
    for _ in range(4000):
        noise.append((rng.choice(block + [n + "_b" for n in block]), rng.uniform(1, 9)))
    gemma = []
    layers(rng, gemma, block, 18, 50)
    for _ in range(10):
        gemma.append(("sample", 3))
        layers(rng, gemma, [n + "_small" for n in block], 18, 5)
    return {"llama": llama, "vit": vit, "resnet": resnet, "dit": steps, "vlm": vlm, "noise": noise, "gemma alone": gemma}


@pytest.mark.parametrize("model", list(other_models()))
def test_other_models_have_no_split(tmp_path, model):
    rows, now = [], 0.0
    for name, us in other_models()[model]:
        rows.append({"ph": "X", "cat": "kernel", "name": name, "ts": now, "dur": us, "pid": 0, "tid": 0})
        now += us + 1
    path = trace_maker.write(tmp_path / "trace.json", rows)
    answer = ok_json("analyze", path)
    assert unknown(answer), answer["repeats"]
    assert answer["kernel_count"] == len(rows)
    assert "unknown structure" in pi0("analyze", path).stdout


def test_truncated_files(tmp_path):
    data = gzip.decompress(MI350.read_bytes())
    path = tmp_path / "cut.json"
    for size in (0, 1, 100, 5000, 100_000, len(data) // 2, len(data) - 40):
        path.write_bytes(data[:size])
        done = pi0("analyze", path, "--json")
        assert done.returncode in (0, 1) and "Traceback" not in done.stderr
        if done.returncode == 0:
            assert json.loads(done.stdout)["kernel_count"] <= 1522
            assert "warning" in done.stderr
        else:
            assert done.stdout == "" and done.stderr.startswith("pi0: ")
    packed = MI350.read_bytes()
    path.write_bytes(packed[:len(packed) // 2])
    done = pi0("analyze", path, "--json")
    assert done.returncode == 0 and 0 < json.loads(done.stdout)["kernel_count"] < 1522 and "gzip" in done.stderr


@pytest.mark.parametrize("text", ["", "no JSON at all", "{", "[", "{}", "[]", '{"traceEvents": []}', '{"traceEvents": 5}', "12", '"text"', "null"])
def test_what_is_no_trace(tmp_path, text):
    path = tmp_path / "trace.json"
    path.write_text(text)
    refused("analyze", path, codes=(1,), says=["expected", "trace.json"])


def test_missing_files_and_usage(tmp_path):
    refused("analyze", tmp_path / "none.json", codes=(1,), says="none.json")
    refused("analyze", tmp_path, codes=(1,), says="directory")
    refused("analyze", codes=(2,), says="FILE")
    refused("analyze", H200, "--top-kernels", "-3", codes=(2,))
    refused("analyze", "-", "--compare", "-", codes=(2,))
    refused("analyze", H200, "--html", tmp_path / "no" / "page.html", codes=(1, 2))


def test_hostile_events(tmp_path):
    kernel = {"ph": "X", "cat": "kernel", "name": "good", "ts": 5.0, "dur": 2.0}
    deep = {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": {"a": "}]"}}}}}}}}}}
    rows = [kernel, kernel | {"dur": -4}, kernel | {"dur": 1e30}, kernel | {"ts": 1e300}, kernel | {"dur": None}, kernel | {"args": deep},
            kernel | {"args": [1, {"b": "]"}]}, {"ph": "X"}, {}, kernel | {"ph": "B"}, kernel | {"name": None}]
    text = json.dumps({"traceEvents": rows}).encode().replace(b'"name": "good"', b'"name": "g\xff\xfe\\ud800od"', 1)
    path = tmp_path / "trace.json"
    path.write_bytes(text)
    answer = ok_json("analyze", path)
    assert answer["kernel_count"] == 4 and answer["kernel_total_ms"] == pytest.approx(0.008)
    assert unknown(answer)
    assert "4 events" in pi0("analyze", path).stderr
    json.dumps(answer).encode()  # valid text all through


def test_no_kernels(tmp_path):
    rows = [{"ph": "X", "cat": "cuda_runtime", "name": "cudaMalloc", "ts": 1, "dur": 3}, {"ph": "M", "name": "process_name"}]
    answer = ok_json("analyze", trace_maker.write(tmp_path / "trace.json", rows))
    assert answer["kernel_count"] == 0 and answer["kernel_span_ms"] is None and answer["utilization"] is None and unknown(answer)
    assert answer["runtime_total_ms"] == pytest.approx(0.003)


def test_nesting_beyond_reason_is_damage(tmp_path):
    path = tmp_path / "trace.json"
    path.write_text('[{"ph":"X","cat":"kernel","name":"a","ts":1,"dur":1},{"args":' + "[" * 5000 + "]" * 5000 + "}]")
    done = pi0("analyze", path, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["kernel_count"] == 1 and "nested" in done.stderr


# ---- two traces --------------------------------------------------------------------------------------------------------

def test_compare(tmp_path):
    text = ok("analyze", H200, "--compare", MI350)
    for word in ("ViT", "Diffusion", "GEMM", "hipBLASLt", "b / a", "Kernels that differ most"):
        assert word in text
    answer = ok_json("analyze", H200, "--compare", MI350)
    a, b = ok_json("analyze", H200), ok_json("analyze", MI350)
    assert answer["a"] == a and answer["b"] == b
    vit = {row["name"]: row for row in answer["stages"]}["ViT"]
    assert vit["delta_ms"] == pytest.approx(stages(b)["ViT"]["ms"] - stages(a)["ViT"]["ms"])
    same = ok_json("analyze", H200, "--compare", H200)
    assert all(row["delta_ms"] == 0 for row in same["stages"] + same["categories"])


# ---- our own traces ----------------------------------------------------------------------------------------------------

def test_our_own_trace(tmp_path):
    ok("bench", "--model", "tiny-pi0", "--iterations", 1, "--profile", "--profile-dir", tmp_path)
    for path in tmp_path.iterdir():
        answer = ok_json("analyze", path)
        assert answer["inferences"] >= 1 and answer["repeats"]["denoise_steps"] == 10 and answer["repeats"]["complete"]
        assert all(stages(answer)[name]["ms"] > 0 for name in ("ViT", "LLM prefill", "Diffusion"))


# ---- speed and memory --------------------------------------------------------------------------------------------------

def test_large_trace_is_streamed(tmp_path):
    """A scaled form of: 1 GB in 10 s of one core and 300 MB."""
    rows = [row for row in json.loads(gzip.decompress(H200.read_bytes()))["traceEvents"] if row.get("ph") == "X"]
    pieces = [(json.dumps({k: v for k, v in row.items() if k != "ts"})[:-1], row["ts"]) for row in rows]
    path = tmp_path / "large.json"
    with path.open("w") as file:
        file.write('{"traceEvents": [\n')
        for copy in range(30):
            file.write(",\n".join(f'{piece}, "ts": {ts + copy * 40000.0:.3f}}}' for piece, ts in pieces) + (",\n" if copy < 29 else "]}"))
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    answer = ok_json("analyze", path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert answer["kernel_count"] == 30 * 4845 and answer["kernel_total_ms"] == pytest.approx(30 * 21.338026, rel=1e-9)
    assert answer["inferences"] == 30 and answer["repeats"]["denoise_steps"] == 10
    size = path.stat().st_size
    assert seconds < 1 + 10 * size / 1e9 * 3, f"{seconds:.1f} s for {size / 1e6:.0f} MB ({time.monotonic() - began:.1f} s)"
    assert after.ru_maxrss < 300_000
