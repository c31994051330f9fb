"""`pi0 synth` writes what openpi's loader asks for; `pi0 inspect` tells what is in a directory."""

import json
import shutil
import struct
import sys

import pytest

from command import GOLDEN, ok, ok_json, pi0, refused

sys.path.insert(0, str(GOLDEN))
import synthetic  # noqa: E402

EMBED_TOKENS = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
LM_HEAD = "paligemma_with_expert.paligemma.lm_head.weight"
EXPERT_HEAD = "paligemma_with_expert.gemma_expert.lm_head.weight"


def read(path):
    """({name: (dtype, shape, bytes)}, metadata)"""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    metadata = header.pop("__metadata__", {})
    data = raw[8 + size:]
    return {name: (entry["dtype"], tuple(entry["shape"]), data[slice(*entry["data_offsets"])])
            for name, entry in header.items()}, metadata


def rewrite(path, change):
    """Lets `change` edit the header of a safetensors file."""
    raw = path.read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:8 + size])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + size:])


@pytest.fixture
def tiny(tmp_path):
    ok("synth", tmp_path / "tiny", "--model", "tiny-pi0", "--seed", 5, "--config", "pi0_aloha_sim")
    return tmp_path / "tiny"


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_every_value_and_name(tmp_path, family):
    seed = 2**63 + 11
    told = ok_json("synth", tmp_path / "d", "--model", f"tiny-{family}", "--seed", seed)
    tensors, metadata = read(tmp_path / "d" / "model.safetensors")
    reference, _ = read(GOLDEN / f"tiny_{family}_checkpoint" / "model.safetensors")
    assert {name: shape for name, (_, shape, _) in tensors.items()} == {
        **{name: shape for name, (_, shape, _) in reference.items()}, EXPERT_HEAD: (512, 32)}
    assert metadata == {EMBED_TOKENS: LM_HEAD}
    for name, (dtype, shape, data) in tensors.items():
        assert dtype == "BF16"
        expected = synthetic.to_bfloat16_bits(synthetic.parameter(name, shape, seed))
        assert data == expected.tobytes(), name
    assert told["tensors"] == len(tensors) and told["asset_id"] is None
    config = json.loads((tmp_path / "d" / "config.json").read_text())
    assert config["action_dim"] == 32 and config["precision"] == "bfloat16"
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("config, model, asset, state, actions", [
    ("pi0_aloha_sim", "tiny-pi0", "lerobot/aloha_sim_transfer_cube_human", 14, 14),
    ("pi05_droid", "tiny-pi05", "droid", 8, 8),
    ("pi05_libero", "tiny-pi05", "physical-intelligence/libero", 8, 7),
    ("pi0_ur5", "tiny-pi0", "ur5e", 7, 7),
])
def test_statistics(tmp_path, config, model, asset, state, actions):
    ok("synth", tmp_path / "d", "--model", model, "--config", config)
    stats = json.loads((tmp_path / "d" / "assets" / asset / "norm_stats.json").read_text())["norm_stats"]
    for key, width in ("state", state), ("actions", actions):
        assert stats[key] == {"mean": [0] * width, "std": [1] * width, "q01": [-1] * width, "q99": [1] * width}
    assert ok_json("inspect", tmp_path / "d")["norm_stats"] == {asset: {"norm_stats": stats}}


def test_the_same_answer_from_a_directory(tmp_path):
    for family in "pi0", "pi05":
        ok("synth", tmp_path / family, "--model", f"tiny-{family}", "--seed", 1)
        golden = GOLDEN / f"tiny_{family}.safetensors"
        ok("verify", golden, "--checkpoint", tmp_path / family, "--precision", "f32")


def test_synth_refuses(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "locked").mkdir(mode=0o555)
    refused("synth", tmp_path / "full", "--model", "tiny-pi0", says=["full", "empty directory"])
    refused("synth", tmp_path / "file", "--model", "tiny-pi0", says="file")
    refused("synth", tmp_path / "file" / "d", "--model", "tiny-pi0", says="file")
    refused("synth", tmp_path / "locked", "--model", "tiny-pi0", says="read-only")
    refused("synth", tmp_path / "locked" / "d", "--model", "tiny-pi0", says="read-only")
    refused("synth", tmp_path / "d", "--config", "pi0_nonsense", codes=[2], says="pi0_nonsense")
    refused("synth", tmp_path / "d", "--config", "pi05_libero", "--model", "tiny-pi0", codes=[2], says="pi05_libero")
    refused("synth", tmp_path / "d", "--seed", "-1", codes=[2], says="--seed")
    refused("synth", codes=[2], says="DIR")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full", "locked"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["x"]


def test_an_empty_directory_is_fine(tmp_path):
    ok("synth", tmp_path, "--model", "tiny-pi0")
    assert (tmp_path / "model.safetensors").is_file()


def test_inspect_tells_all(tiny):
    told = ok_json("inspect", tiny)
    assert told["layout"] == "openpi" and told["family"] == "pi0" and told["parameters"] == 281936
    assert told["missing"] == [] and told["unused"] == [EXPERT_HEAD]
    tensors, _ = read(tiny / "model.safetensors")
    assert {t["name"]: (t["dtype"], tuple(t["shape"])) for t in told["tensors"]} == {
        name: entry[:2] for name, entry in tensors.items()}
    text = ok("inspect", tiny)
    for words in "pi0", "281936", "BF16", EXPERT_HEAD, "lerobot/aloha_sim_transfer_cube_human", "mean[14]":
        assert words in text


def test_inspect_lerobot():
    told = ok_json("inspect", GOLDEN / "lerobot_tiny_pi05")
    assert told["layout"] == "lerobot" and told["family"] == "pi05" and told["parameters"] == 301808
    assert sorted(told["unused"]) == ["model." + EXPERT_HEAD, "model." + LM_HEAD]
    state = told["norm_stats"]["policy_preprocessor_step_3_normalizer_processor.safetensors"]
    assert len(state["observation.state.q01"]) == 14 and "lerobot" in ok("inspect", GOLDEN / "lerobot_tiny_pi05")


def test_inspect_lists_what_is_missing(tiny):
    def rename(header):
        header["action_in_projection.bias"] = header.pop("action_in_proj.bias")

    rewrite(tiny / "model.safetensors", rename)
    told = ok_json("inspect", tiny)
    assert told["missing"] == ["action_in_proj.bias"]
    assert sorted(told["unused"]) == ["action_in_projection.bias", EXPERT_HEAD]
    says = refused("verify", GOLDEN / "tiny_pi0.safetensors", "--checkpoint", tiny, codes=[1])
    assert "action_in_proj.bias" in says and "missing" in says


def test_inspect_counts_the_real_sizes():
    assert ok_json("inspect", "synthetic:1")["parameters"] == 3238048528
    told = ok_json("inspect", "synthetic:1", "--model", "pi05")
    assert told["parameters"] == 3353433872 and len(told["tensors"]) == 812


@pytest.mark.parametrize("damage, says", [
    (lambda d: (d / "model.safetensors").write_bytes(struct.pack("<Q", 10**6) + b"{}"), "header"),
    (lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-10]), "truncated"),
    (lambda d: (d / "model.safetensors").unlink(), "model.safetensors"),
    (lambda d: shutil.rmtree(d), "No such file"),
    (lambda d: (d / "config.json").write_text('{"a": 1, "a": 2}'), "config.json"),
])
def test_inspect_refuses(tiny, damage, says):
    damage(tiny)
    refused("inspect", tiny, codes=[1], says=says)


def test_broken_statistics_are_told_and_the_rest_too(tiny):
    (tiny / "assets" / "other").mkdir()
    (tiny / "assets" / "other" / "norm_stats.json").write_text('{"norm_stats": {"state": {"mean": [NaN]}}}')
    done = pi0("inspect", tiny, "--json")
    assert done.returncode == 1 and "other/norm_stats.json" in done.stderr
    told = json.loads(done.stdout)
    assert told["norm_stats"]["other"] is None and len(told["norm_stats"]) == 2


def test_inspect_lists_tensors_of_another_shape_or_type(tiny):
    def change(header):
        header["action_in_proj.bias"]["shape"] = [2, 16]
        header["state_proj.bias"]["dtype"] = "I16"

    assert ok_json("inspect", tiny)["unfit"] == []
    rewrite(tiny / "model.safetensors", change)
    told = ok_json("inspect", tiny)
    assert told["missing"] == [] and sorted(told["unfit"], key=lambda entry: entry["name"]) == [
        {"name": "action_in_proj.bias", "expected": "shape [32]", "found": "[2, 16]"},
        {"name": "state_proj.bias", "expected": "dtype BF16, F16 or F32", "found": "I16"}]
    text = ok("inspect", tiny)
    assert "action_in_proj.bias: expected shape [32], found [2, 16]\n" in text
    says = refused("infer", "--checkpoint", tiny, "--tokens", "5", codes=[1], says="expected ")
    assert "[2, 16]" in says or "I16" in says
