"""pi0 verify: golden problems, bounds, and files that are none."""

import numpy as np
import pytest

from command import GOLDEN, ok, ok_json, pi0, read_safetensors, refused, write_safetensors

TINY = sorted(GOLDEN.glob("tiny_*.safetensors"))
TENSORS = ["prefix_embeddings", "prefix_keys", "prefix_values", "x", "v", "actions"]


def golden(name="tiny_pi0"):
    return read_safetensors(GOLDEN / f"{name}.safetensors")


def bound_of(precision, name):
    if precision == "f32":
        return 2e-5
    return 6.5e-3 if name in ("x", "actions") else 1.2e-2


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_golden(path, precision):
    result = ok_json("verify", path, "--precision", precision, "--backend", "cpu")
    assert result["golden"] == str(path) and result["ok"] is True
    assert result["backend"] == "cpu" and result["precision"] == precision
    assert [t["name"] for t in result["tensors"]] == TENSORS
    for tensor in result["tensors"]:
        assert tensor["bound"] == bound_of(precision, tensor["name"])
        assert tensor["ok"] is True and 0 <= tensor["relative_error"] <= tensor["bound"]


def test_text_has_one_line_per_tensor():
    lines = ok("verify", TINY[0], "--precision", "f32").splitlines()
    assert [line.split()[0] for line in lines] == TENSORS
    for line in lines:
        _, error, bound, verdict = line.split()
        assert float(error) <= float(bound) == 2e-5 and verdict == "ok"


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_weights_from_a_checkpoint(family):
    path, checkpoint = GOLDEN / f"tiny_{family}.safetensors", GOLDEN / f"tiny_{family}_checkpoint"
    assert ok_json("verify", path, "--checkpoint", checkpoint, "--precision", "f32")["ok"]


def test_checkpoint_of_another_model():
    refused("verify", GOLDEN / "tiny_pi0.safetensors", "--checkpoint", GOLDEN / "tiny_pi05_checkpoint", codes=[1],
            says=["tiny pi0", "pi0.5"])
    refused("verify", GOLDEN / "tiny_pi0.safetensors", "--checkpoint", "/nowhere", codes=[1], says="/nowhere")


def test_tolerance_replaces_every_bound():
    done = pi0("verify", TINY[0], "--tolerance", "1e-9", "--precision", "f32")
    assert done.returncode == 1 and done.stderr == ""
    assert all(line.endswith("FAIL") and "1.0e-09" in line for line in done.stdout.splitlines())
    assert ok_json("verify", TINY[0], "--precision", "bf16", "--tolerance", "0.5")["ok"]
    refused("verify", TINY[0], "--tolerance", "0", codes=[2])


def result_of(tmp_path, tensors, metadata, *arguments):
    path = write_safetensors(tmp_path / "g.safetensors", tensors, metadata)
    done = pi0("verify", path, "--precision", "f32", *arguments)
    return done


@pytest.mark.parametrize("name", TENSORS)
def test_one_wrong_number_is_found(tmp_path, name):
    tensors, metadata = golden()
    wrong = tensors[name].copy()
    wrong.flat[wrong.size // 2] += 0.5
    done = result_of(tmp_path, tensors | {name: wrong}, metadata)
    assert done.returncode == 1
    failed = [line.split()[0] for line in done.stdout.splitlines() if line.endswith("FAIL")]
    assert failed == [name]


def test_nan_fails(tmp_path):
    tensors, metadata = golden()
    wrong = tensors["v"].copy()
    wrong[3, 2, 1] = np.nan
    path = write_safetensors(tmp_path / "g.safetensors", tensors | {"v": wrong}, metadata)
    done = pi0("verify", path, "--precision", "f32", "--tolerance", "1e3", "--json")
    assert done.returncode == 1
    assert '"relative_error": null' in done.stdout and '"ok": false' in done.stdout


# Image tokens do not depend on other cameras, and embeddings not on positions: from the unmasked golden file follow
# the embeddings of every masked and padded one. Rows that must not be compared are NaN.
CAMERAS = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]


@pytest.mark.parametrize("prompt, pad", [(20, 0), (20, 7), (11, 3), (0, 4)])
@pytest.mark.parametrize("masked", [[0], [1], [2], [0, 1], [2, 0], [1, 2]])
def test_rows_of_masked_cameras_and_padding_are_left_out(tmp_path, masked, prompt, pad):
    tensors, metadata = golden()
    rows = np.full((48 + prompt + pad, 64), np.nan, np.float32)
    rows[:48 + prompt] = tensors["prefix_embeddings"][:48 + prompt]
    for camera in masked:
        rows[camera * 16:camera * 16 + 16] = np.nan
    names = "+".join(CAMERAS[camera] for camera in masked)
    metadata |= {"mask": names, "prompt": str(prompt), "pad": str(pad), "horizon": "3", "steps": "2"}
    done = result_of(tmp_path, {"prefix_embeddings": rows}, metadata)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[0] == "prefix_embeddings"


def test_all_cameras_masked(tmp_path):
    tensors, metadata = golden()
    rows = np.full((68, 64), np.nan, np.float32)
    rows[48:] = tensors["prefix_embeddings"][48:]
    metadata |= {"mask": "+".join(CAMERAS)}
    assert result_of(tmp_path, {"prefix_embeddings": rows}, metadata).returncode == 0
    metadata |= {"prompt": "0", "pad": "20"}
    done = result_of(tmp_path, {"prefix_embeddings": rows}, metadata)
    assert done.returncode == 1 and "neither a camera nor a prompt" in done.stderr


def test_sampled_rows_and_layers(tmp_path):
    tensors, metadata = golden("tiny_pi0_masked_padded")  # the right wrist is masked, five tokens of padding
    rows, layers = np.array([0, 31, 40, 58, 60, 5]), np.array([2, 0])
    sampled = {"prefix_rows": rows, "kv_layers": layers,
               "prefix_embeddings_at_rows": tensors["prefix_embeddings"][rows],
               "prefix_keys_at_rows": tensors["prefix_keys"][layers][:, rows],
               "prefix_values_at_rows": tensors["prefix_values"][layers][:, rows]}
    for name in ("prefix_embeddings_at_rows", "prefix_keys_at_rows", "prefix_values_at_rows"):
        sampled[name] = sampled[name].copy()
        sampled[name][..., [2, 4], :] = np.nan  # rows 40 and 60
    done = result_of(tmp_path, sampled, metadata)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(done.stdout.splitlines()) == 3
    sampled["prefix_keys_at_rows"] = sampled["prefix_keys_at_rows"][::-1].copy()
    done = result_of(tmp_path, sampled, metadata)
    assert done.returncode == 1 and "prefix_keys_at_rows" in done.stdout


@pytest.mark.parametrize("horizon, steps", [(1, 1), (64, 2), (80, 1), (2, 100)])
def test_any_horizon_and_number_of_steps(tmp_path, horizon, steps):
    _, metadata = golden()
    metadata |= {"horizon": str(horizon), "steps": str(steps)}
    done = result_of(tmp_path, {"x": np.zeros((steps, horizon, 32), np.float32)}, metadata)
    assert done.returncode == 1 and done.stderr == ""
    assert done.stdout.split() == ["x", "inf", "2.0e-05", "FAIL"], "expected a whole run: anything is far from zero"
    done = result_of(tmp_path, {"x": np.zeros((steps, horizon + 1, 32), np.float32)}, metadata)
    assert done.returncode == 1 and f"expected F32 [{steps}, {horizon}, 32]" in done.stderr


@pytest.mark.parametrize("key, value", [
    ("size", "medium"), ("size", ""), ("family", "pi1"), ("seed", "-1"), ("seed", "one"), ("seed", "1.5"),
    ("seed", "18446744073709551616"), ("seed", ""), ("prompt", "-3"), ("prompt", "9999999"), ("pad", "x"),
    ("horizon", "0"), ("horizon", "999999999"), ("steps", "0"), ("steps", "1e3"), ("steps", " 10"),
    ("mask", "head"), ("mask", "base_0_rgb+"), ("mask", "+"), ("mask", "base_0_rgb+base_0_rgb"),
    ("mask", "base_0_rgb,left_wrist_0_rgb"), ("size", None), ("family", None), ("seed", None), ("prompt", None),
    ("pad", None), ("horizon", None), ("steps", None), ("mask", None),
])
def test_bad_metadata(tmp_path, key, value):
    tensors, metadata = golden()
    metadata = {k: v for k, v in (metadata | {key: value}).items() if v is not None}
    path = write_safetensors(tmp_path / "g.safetensors", tensors, metadata)
    refused("verify", path, codes=[1], says=[str(path), f'"{key}"'])


def test_seed_is_64_bits_wide(tmp_path):
    _, metadata = golden()
    metadata |= {"seed": "18446744073709551615", "horizon": "1", "steps": "1"}
    done = result_of(tmp_path, {"actions": np.ones((1, 32), np.float32)}, metadata)
    assert done.returncode == 1 and "FAIL" in done.stdout and done.stderr == ""


def without(name):
    return lambda tensors: {k: v for k, v in tensors.items() if k != name}


@pytest.mark.parametrize("change, says", [
    (lambda t: {}, "no tensor to compare"),
    (lambda t: {"other": t["x"]}, "no tensor to compare"),
    (lambda t: t | {"actions": t["actions"][:9]}, '"actions" is F32 [9, 32], expected F32 [10, 32]'),
    (lambda t: t | {"v": t["v"].reshape(100, 32)}, '"v"'),
    (lambda t: t | {"actions": t["actions"].astype(np.float64)}, "F64"),
    (lambda t: t | {"prefix_keys": t["prefix_keys"][:2]}, '"prefix_keys"'),
    (lambda t: {"prefix_keys_at_rows": t["prefix_keys"][:, :2]}, "needs prefix_rows"),
    (lambda t: {"prefix_rows": np.array([68]), "prefix_embeddings_at_rows": t["prefix_embeddings"][:1]}, "0 to 67"),
    (lambda t: {"prefix_rows": np.array([-1]), "prefix_embeddings_at_rows": t["prefix_embeddings"][:1]}, "-1"),
    (lambda t: {"prefix_rows": np.array([1.5]), "prefix_embeddings_at_rows": t["prefix_embeddings"][:1]}, "F64"),
    (lambda t: {"prefix_rows": np.array([1]), "kv_layers": np.array([3]), "prefix_keys_at_rows":
                t["prefix_keys"][:1, :1]}, "0 to 2"),
])
def test_bad_tensors(tmp_path, change, says):
    tensors, metadata = golden()
    path = write_safetensors(tmp_path / "g.safetensors", change(tensors), metadata)
    refused("verify", path, codes=[1], says=[str(path), says])


def test_only_masked_rows(tmp_path):
    tensors, metadata = golden()
    metadata |= {"mask": "base_0_rgb"}
    sampled = {"prefix_rows": np.array([3]), "prefix_embeddings_at_rows": tensors["prefix_embeddings"][3:4]}
    done = result_of(tmp_path, sampled, metadata)
    assert done.returncode == 1 and "masked or padding" in done.stderr


def test_files_that_are_none(tmp_path):
    refused("verify", "/nowhere.safetensors", codes=[1], says="/nowhere.safetensors")
    refused("verify", tmp_path, codes=[1])
    short = tmp_path / "short"
    whole = (GOLDEN / "tiny_pi0.safetensors").read_bytes()
    for size in (0, 7, 8, 100, len(whole) - 1):
        short.write_bytes(whole[:size])
        refused("verify", short, codes=[1], says=str(short))


def test_precision_that_the_cpu_has_not():
    refused("verify", TINY[0], "--backend", "cpu", "--precision", "fp8", codes=[1], says="fp8")
