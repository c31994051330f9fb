"""pi0 bench: the JSON contract, options, the environment of the report's script."""

import csv
import gzip
import json

import pytest

from command import ok, ok_json, pi0, refused

TINY = ["bench", "--backend", "cpu", "--model", "tiny-pi0", "--warmup", "0", "--iterations", "1"]
STAGES = ["ViT", "LLM prefill", "Diffusion", "Other"]
OPS = ["GEMM", "attention", "norm", "RoPE", "activation", "other"]
KEYS = {"model", "checkpoint", "parameters", "precision", "backend", "device", "batch_size", "cameras",
        "prompt_tokens", "prefix_tokens", "suffix_tokens", "horizon", "num_steps", "graph", "warmup", "iterations",
        "latency_ms", "throughput_hz", "stages", "memory_bytes", "sweep", "ladder"}


def test_json_contract():
    r = ok_json("bench", "--backend", "cpu", "--model", "tiny-pi0", "--iterations", "5")
    assert r.keys() == KEYS, "the cpu has no device timer, hence no device_ms"
    assert (r["model"], r["checkpoint"], r["backend"]) == ("tiny-pi0", "synthetic:1", "cpu")
    assert r["device"].keys() == {"name", "arch"} and r["graph"] is False
    assert (r["batch_size"], r["cameras"], r["prompt_tokens"], r["horizon"], r["num_steps"]) == (1, 3, 20, 10, 10)
    assert (r["prefix_tokens"], r["suffix_tokens"]) == (3 * 16 + 20, 11)
    assert (r["warmup"], r["iterations"]) == (1, 5)
    latency = r["latency_ms"]
    assert latency.keys() == {"min", "mean", "std", "p50", "p90", "p99"}
    assert 0 < latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
    assert latency["min"] <= latency["mean"] and latency["std"] >= 0
    assert r["throughput_hz"] == pytest.approx(1e3 / latency["mean"])
    assert [s["name"] for s in r["stages"]] == STAGES
    assert sum(s["percent"] for s in r["stages"]) == pytest.approx(100)
    assert sum(s["ms"] for s in r["stages"]) == pytest.approx(latency["mean"], rel=0.2)
    for stage in r["stages"]:
        assert stage.keys() == {"name", "ms", "percent", "floor_ms", "ops"}
        assert [op["name"] for op in stage["ops"]] == OPS
        assert sum(op["ms"] for op in stage["ops"]) <= stage["ms"] * 1.05 + 0.01
    for stage in r["stages"][:3]:
        assert stage["floor_ms"] > 0 and stage["ops"][0]["calls"] > 0 and stage["ops"][0]["ms"] > 0
    memory = r["memory_bytes"]
    assert memory.keys() == {"weights", "workspace", "host_peak"}
    assert 0 < memory["workspace"] < memory["host_peak"] < 2**30 and memory["weights"] > 2e5
    assert r["sweep"] == [] and r["ladder"] == []


def test_pi05():
    r = ok_json(*TINY, "--model", "tiny-pi05", "--horizon", "7")
    assert (r["model"], r["suffix_tokens"], r["horizon"]) == ("tiny-pi05", 7, 7)


def test_parameters_of_the_tiny_model_are_those_that_inference_reads():
    assert ok_json(*TINY)["parameters"] < 300_000


@pytest.mark.parametrize("words, prefix", [
    (["--cameras", "1", "--prompt-tokens", "0"], 16), (["--cameras", "8"], 148), (["--masked-images", "2"], 36),
    (["--masked-images", "3"], 20), (["--masked-images", "2", "--no-skip-masked-images"], 68),
    (["--prompt-tokens", "200"], 248),
])
def test_shapes(words, prefix):
    assert ok_json(*TINY, *words)["prefix_tokens"] == prefix


def test_both_names_of_steps_and_batches():
    assert ok_json(*TINY, "--steps", "3", "--batch-size", "2")["num_steps"] == 3
    r = ok_json(*TINY, "--num-steps", "4", "--batch-size", "2")
    assert r["num_steps"] == 4 and r["batch_size"] == 2
    assert r["throughput_hz"] == pytest.approx(2e3 / r["latency_ms"]["mean"])


def test_floors_grow_with_the_work():
    one, four = ok_json(*TINY), ok_json(*TINY, "--batch-size", "8")
    assert four["stages"][0]["floor_ms"] > 2 * one["stages"][0]["floor_ms"]


def test_batch_sweep():
    sweep = ok_json(*TINY, "--batch-sweep", "1,3,2")["sweep"]
    assert [row["batch_size"] for row in sweep] == [1, 3, 2]
    for row in sweep:
        assert row.keys() == {"batch_size", "ms", "samples_per_s"}
        assert row["samples_per_s"] == pytest.approx(row["batch_size"] * 1e3 / row["ms"])


def test_text_report():
    text = ok("bench", "--model", "tiny-pi0", "--batch-sweep", "1,2")
    for word in ("p50", "p90", "p99", "Hz", "percent", "floor", "published", "MI300X 26.1 ms", "MI350 25.3 ms",
                 "H200 25.3 ms", "not measured here", "GFLOP/s", "GB/s", "one denoise step", "host peak", *STAGES,
                 *OPS):
        assert word in text, word


def test_csv(tmp_path):
    path = tmp_path / "bench.csv"
    result = json.loads(ok(*TINY, "--csv", path, "--json", "--batch-sweep", "2"))
    rows = list(csv.DictReader(path.open()))
    assert [r["name"] for r in rows if r["section"] == "latency"] == ["min", "mean", "std", "p50", "p90", "p99"]
    stages = {r["name"]: float(r["ms"]) for r in rows if r["section"] == "stage"}
    assert stages == {s["name"]: s["ms"] for s in result["stages"]}
    assert float([r for r in rows if r["section"] == "sweep"][0]["ms"]) == result["sweep"][0]["ms"]
    assert [p.name for p in tmp_path.iterdir()] == ["bench.csv"]


def test_environment_gives_defaults_and_options_beat_it():
    env = {"WARMUP": "2", "ITERATIONS": "4", "NUM_STEPS": "3", "OPENPI_ACTION_HORIZON": "5", "OPENPI_BATCH_SIZE": "2",
           "OPENPI_TIMING": "cuda_event"}
    r = ok_json("bench", "--backend", "cpu", "--model", "tiny-pi0", env=env)
    assert (r["warmup"], r["iterations"], r["num_steps"], r["horizon"], r["batch_size"]) == (2, 4, 3, 5, 2)
    r = ok_json(*TINY, "--num-steps", "2", env=env | {"OPENPI_PI05": "1"})
    assert (r["warmup"], r["iterations"], r["num_steps"], r["model"]) == (0, 1, 2, "tiny-pi0")


@pytest.mark.parametrize("name, value", [("WARMUP", "x"), ("ITERATIONS", "0"), ("NUM_STEPS", "-1"),
                                         ("OPENPI_BATCH_SIZE", "1.5"), ("OPENPI_TIMING", "sundial"),
                                         ("OPENPI_PI05", "maybe")])
def test_bad_environment(name, value):
    words = ["bench"] if name == "OPENPI_PI05" else TINY[:5]
    refused(*words, codes=[2], says=[name, value], env={name: value})


def test_time_limit_ends_a_round_early_but_times_one():
    r = ok_json("bench", "--model", "tiny-pi0", "--warmup", "5", "--iterations", "100000", "--num-steps", "100",
                "--max-seconds", "1")
    assert 1 <= r["iterations"] < 100000


@pytest.mark.parametrize("words, says", [
    (["--masked-images", "4"], "--masked-images"), (["--cameras", "0"], "--cameras"),
    (["--cameras", "9"], "--cameras"), (["--batch-size", "0"], "--batch-size"),
    (["--iterations", "0"], "--iterations"), (["--warmup", "-1"], "--warmup"), (["--num-steps", "0"], "--num-steps"),
    (["--horizon", "0"], "--horizon"), (["--prompt-tokens", "-1"], "--prompt-tokens"),
    (["--batch-sweep", "1,,2"], "--batch-sweep"), (["--batch-sweep", "0"], "--batch-sweep"),
    (["--batch-sweep", "1,"], "--batch-sweep"), (["--max-seconds", "nan"], "--max-seconds"),
    (["--masked-images", "3", "--prompt-tokens", "0"], "nothing to compute"), (["--model", "pi2"], "found 'pi2'"),
])
def test_wrong_usage(words, says):
    refused(*TINY, *words, codes=[2], says=says)


@pytest.mark.parametrize("words", [["--timing", "device"], ["--gemm", "own"], ["--gemm", "cublaslt"], ["--no-graph"]])
def test_what_only_a_gpu_has_is_refused(words):
    refused(*TINY, *words, codes=[1], says=[words[0], "cpu backend"])


def calls(report, stage, op):
    ops = next(s for s in report["stages"] if s["name"] == stage)["ops"]
    return next(o for o in ops if o["name"] == op)["calls"]


def test_kernels_to_choose_from():
    """Without fused QKV two products more in each layer; the layer of prefill that only fills the cache has one."""
    fused, separate = ok_json(*TINY), ok_json(*TINY, "--no-fuse-qkv")
    assert calls(separate, "ViT", "GEMM") - calls(fused, "ViT", "GEMM") == 2 * 2
    assert calls(separate, "LLM prefill", "GEMM") - calls(fused, "LLM prefill", "GEMM") == 2 * 2 + 1
    assert ok_json(*TINY, "--attention", "naive")["latency_ms"]["mean"] > 0
    assert ok_json(*TINY, "--attention", "auto", "--gemm", "auto")["graph"] is False


# ---- ladder ----


def test_ladder():
    report = ok_json(*TINY, "--threads", "2", "--ladder", "--masked-images", "1")
    rows = report["ladder"]
    assert [row["step"] for row in rows] == [
        "f32, one thread, naive attention, separate QKV, masked images computed", "all threads", "attention kernel",
        "fused QKV", "masked images skipped", "bf16"]
    assert all(row.keys() == {"step", "ms", "delta_ms"} and row["ms"] > 0 for row in rows)
    assert rows[0]["delta_ms"] == 0
    for before, row in zip(rows, rows[1:]):
        assert row["delta_ms"] == pytest.approx(row["ms"] - before["ms"], abs=1e-9)


def test_ladder_has_rows_for_what_there_is():
    def steps(*words):
        return [row["step"] for row in ok_json(*TINY, "--ladder", *words)["ladder"]]

    assert steps("--threads", "1", "--precision", "f32") == [
        "f32, naive attention, separate QKV", "attention kernel", "fused QKV"]
    assert steps("--threads", "1", "--attention", "naive", "--no-fuse-qkv") == ["f32", "bf16"]
    assert "ladder" in ok(*TINY, "--ladder") and "+ attention kernel" in ok(*TINY, "--ladder")


# ---- traces ----


def trace_of(folder, name="pi0_cpu.json"):
    raw = (folder / name).read_bytes()
    return json.loads(gzip.decompress(raw) if name.endswith(".gz") else raw)


def slices(trace, category):
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and e["cat"] == category]


def test_trace(tmp_path):
    report = ok_json(*TINY, "--threads", "2", "--profile", "--profile-dir", tmp_path / "traces")
    assert [t.keys() for t in report["traces"]] == [{"file", "graph", "kernel_ms"}]
    assert report["traces"][0]["file"] == str(tmp_path / "traces" / "pi0_cpu.json")
    trace = trace_of(tmp_path / "traces")
    assert [e["name"] for e in slices(trace, "stage")] == STAGES[:3]
    assert [e["name"] for e in slices(trace, "step")] == [f"step {i}" for i in range(10)]
    assert len(slices(trace, "layer")) == 2 + 3 + 3 + 10 * 3 and len(slices(trace, "inference")) == 1
    kernels = slices(trace, "kernel")
    total = sum(e["dur"] for e in kernels) / 1e3
    assert total == pytest.approx(report["traces"][0]["kernel_ms"], rel=1e-3)
    assert len(kernels) == sum(op["calls"] for s in report["stages"] for op in s["ops"])
    for e in kernels:
        assert e["args"]["bytes"] > 0 and e["args"]["n"] > 0
    qkv = next(e for e in kernels if e["name"] == "vit_linear_qkv")["args"]
    assert (qkv["rows"], qkv["k"], qkv["n"], qkv["flops"]) == (48, 48, 144, 2 * 48 * 48 * 144)
    attention = next(e for e in kernels if e["name"] == "denoise_attention" and e["args"]["rows"] == 10)["args"]
    assert attention["k"] == 3 * 16 + 20 + 1 + 10 and attention["flops"] == 4 * 10 * 79 * 8 * 16


def nesting_depth(events):
    """Raises where two slices of a track overlap without nesting; ends are whole nanoseconds."""
    deepest, stack = 0, []
    for e in sorted(events, key=lambda e: (round(e["ts"] * 1e3), -round(e["dur"] * 1e3))):
        start, end = round(e["ts"] * 1e3), round(e["ts"] * 1e3) + round(e["dur"] * 1e3)
        while stack and stack[-1] <= start:
            stack.pop()
        assert not stack or end <= stack[-1], e
        stack.append(end)
        deepest = max(deepest, len(stack))
    return deepest


def test_trace_keeps_to_the_format(tmp_path):
    """The trace event format: complete events that nest, flows that bind to slices, names for all tracks."""
    ok(*TINY, "--threads", "2", "--batch-size", "2", "--profile", "--profile-dir", tmp_path)
    trace = trace_of(tmp_path)
    events = trace["traceEvents"]
    assert {e["ph"] for e in events} == {"X", "M", "s", "f"} and trace["displayTimeUnit"] == "ms"
    tracks = {}
    for e in events:
        if e["ph"] == "X":
            assert e["ts"] >= 0 and e["dur"] >= 0 and e["name"]
            tracks.setdefault((e["pid"], e["tid"]), []).append(e)
    named = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert set(tracks) == set(named)
    assert {"ops 0", "calling thread 0", "thread 0", "thread 1"} == set(named.values())
    assert {e["pid"] for e in events if e["ph"] == "M" and e["name"] == "process_name"} == {t[0] for t in tracks}
    depths = {named[track]: nesting_depth(slices_of) for track, slices_of in tracks.items()}
    assert depths["ops 0"] == 5, "inference > stage > step > layer > kernel"
    ends = {}
    for e in events:
        if e["ph"] in "sf":
            ends.setdefault(e["id"], {})[e["ph"]] = e
    assert all(pair.keys() == {"s", "f"} and pair["s"]["ts"] <= pair["f"]["ts"] for pair in ends.values())
    starts = {(e["pid"], e["tid"], e["ts"]) for e in events if e["ph"] == "X"}
    assert all((e["pid"], e["tid"], e["ts"]) in starts for pair in ends.values() for e in pair.values())
    assert len(ends) >= len(slices(trace, "kernel"))


@pytest.mark.parametrize("words", [[], ["--model", "tiny-pi05"], ["--profile-gzip"], ["--batch-size", "3"],
                                   ["--masked-images", "2", "--attention", "naive", "--precision", "bf16"]])
def test_analyze_tells_what_bench_told(tmp_path, words):
    report = ok_json(*TINY, "--profile", "--profile-dir", tmp_path, *words)
    told = ok_json("analyze", report["traces"][0]["file"])
    assert told["inferences"] == 1 and told["repeats"]["denoise_steps"] == 10 and told["repeats"]["complete"]
    for mine, theirs in zip(report["stages"][:3], told["stages"]):
        assert mine["name"] == theirs["name"] and theirs["ms"] == pytest.approx(mine["ms"], rel=0.03)
    ops = {op: sum(o["ms"] for s in report["stages"] for o in s["ops"] if o["name"] == op) for op in OPS}
    for category in told["categories"]:
        assert category["ms"] == pytest.approx(ops[category["name"]], rel=0.03, abs=1e-4)


def test_profile_by_the_reports_environment(tmp_path):
    ok(*TINY, env={"PROFILE": "1", "PROFILE_DIR": str(tmp_path / "a")})
    assert (tmp_path / "a" / "pi0_cpu.json").exists()
    ok(*TINY, env={"PROFILE": "0", "PROFILE_DIR": str(tmp_path / "b")})
    assert not (tmp_path / "b").exists()
    refused(*TINY, env={"PROFILE": "perhaps"}, codes=[2], says=["PROFILE", "perhaps"])
    (tmp_path / "file").write_text("")
    refused(*TINY, "--profile", "--profile-dir", tmp_path / "file", codes=[1], says=str(tmp_path / "file"))


def test_output_that_cannot_be_written_is_refused_first(tmp_path):
    refused(*TINY, "--csv", tmp_path / "none" / "x.csv", codes=[1], says="cannot write")
    refused(*TINY, "--csv", tmp_path, codes=[1], says="directory")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints(tmp_path):
    refused("bench", "--checkpoint", tmp_path, codes=[1], says=str(tmp_path))
    refused("bench", "--checkpoint", "synthetic:x", codes=[1, 2], says="synthetic")
    assert pi0(*TINY, "--checkpoint", "synthetic:7").returncode == 0
