"""pi0 bench: the JSON contract, options, the environment of the report's script."""

import csv
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


@pytest.mark.parametrize("words", [["--timing", "device"], ["--gemm", "own"], ["--attention", "naive"],
                                   ["--no-fuse-qkv"]])
def test_what_only_a_gpu_has_is_refused(words):
    refused(*TINY, *words, codes=[1], says=words[0])


def test_output_that_cannot_be_written_is_refused_first(tmp_path):
    refused(*TINY, "--csv", tmp_path / "none" / "x.csv", codes=[1], says="cannot write")
    refused(*TINY, "--csv", tmp_path, codes=[1], says="directory")
    assert list(tmp_path.iterdir()) == []


def test_checkpoints(tmp_path):
    refused("bench", "--checkpoint", tmp_path, codes=[1], says=str(tmp_path))
    refused("bench", "--checkpoint", "synthetic:x", codes=[1, 2], says="synthetic")
    assert pi0(*TINY, "--checkpoint", "synthetic:7").returncode == 0
