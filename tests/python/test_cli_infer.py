"""pi0 infer: inputs from options and files, outputs, and everything that is refused."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from command import GOLDEN, ok, ok_json, pi0, read_safetensors, refused

TOKENIZER = GOLDEN / "tokenizer" / "tiny.model"
REQUESTS = GOLDEN / "wire"
MODEL_CAMERAS = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    """A 80x60 PNG; the same pixels as JPEG stand beside it."""
    pixels = np.random.default_rng(1).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = tmp_path_factory.mktemp("images") / "a.png"
    Image.fromarray(pixels).save(path)
    Image.fromarray(pixels).save(path.with_suffix(".jpg"))
    return path


@pytest.fixture
def bare(picture):
    """The bare tiny model with one image and three tokens."""
    return ["infer", "--model", "tiny-pi0", "--image", f"base_0_rgb={picture}", "--tokens", "2,5,6"]


def numbers(path):
    return np.load(path)


# ---- outputs ----


def test_the_three_formats_hold_the_same_numbers(bare, tmp_path):
    for name in ("a.npy", "a.csv", "a.json"):
        ok(*bare, "--out", tmp_path / name)
    array = numbers(tmp_path / "a.npy")
    assert array.shape == (10, 32) and np.isfinite(array).all()
    text = json.loads((tmp_path / "a.json").read_text())
    assert text.keys() == {"actions", "shape", "timing_ms"} and text["shape"] == [10, 32]
    assert list(text["timing_ms"]) == ["preprocess", "ViT", "LLM prefill", "Diffusion", "postprocess", "total"]
    assert text["timing_ms"]["total"] >= text["timing_ms"]["Diffusion"] > 0
    assert (np.array(text["actions"]) == array).all()
    rows = [[float(x) for x in row] for row in csv.reader((tmp_path / "a.csv").open()) if row[0][0] in "-0123456789"]
    assert (np.array(rows) == array).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.json", "a.npy"]


def test_json_and_table_on_stdout(bare, tmp_path):
    ok(*bare, "--out", tmp_path / "a.npy")
    assert (np.array(ok_json(*bare)["actions"]) == numbers(tmp_path / "a.npy")).all()
    lines = ok(*bare, "--horizon", "4").splitlines()
    assert len(lines) == 6 and lines[0].split()[0] == "step" and [line.split()[0] for line in lines[1:5]] == list("0123")


def test_an_older_file_is_replaced_whole_or_left_alone(bare, tmp_path):
    out = tmp_path / "a.npy"
    out.write_bytes(b"old")
    refused(*bare, "--tokens", "99999999", "--out", out)
    assert out.read_bytes() == b"old"
    ok(*bare, "--out", out)
    assert numbers(out).shape == (10, 32) and list(tmp_path.iterdir()) == [out]


# ---- noise, steps, horizon ----


def test_noise(bare, tmp_path):
    """Seed 0 is the default; the noise of a seed is that of the golden files."""
    golden, metadata = read_safetensors(GOLDEN / "tiny_pi0.safetensors")
    np.save(tmp_path / "noise.npy", golden["x"][0])
    seeded = ok_json(*bare, "--seed", metadata["seed"])["actions"]
    assert seeded == ok_json(*bare, "--noise", tmp_path / "noise.npy")["actions"]
    default = ok_json(*bare)["actions"]
    assert default == ok_json(*bare, "--seed", "0")["actions"] != seeded


def test_steps_and_horizon(bare):
    assert ok_json(*bare, "--steps", "3")["actions"] == ok_json(*bare, "--num-steps=3")["actions"]
    assert ok_json(*bare, "--steps", "3")["actions"] != ok_json(*bare)["actions"]
    assert ok_json(*bare, "--horizon", "1")["shape"] == [1, 32]
    assert ok_json(*bare, "--horizon", "64")["shape"] == [64, 32]


@pytest.mark.parametrize("array, says", [
    (np.zeros((10, 32)), "float64 [10, 32]"), (np.zeros((9, 32), np.float32), "float32 [9, 32]"),
    (np.zeros(320, np.float32), "expected float32 [10, 32]"), (np.zeros((10, 32), np.int32), "int32"),
    (np.full((10, 32), np.nan, np.float32), "finite"),
])
def test_bad_noise(bare, tmp_path, array, says):
    np.save(tmp_path / "noise.npy", array)
    refused(*bare, "--noise", tmp_path / "noise.npy", codes=[1], says=["noise.npy", says])


def test_threads_do_not_change_the_answer_much(bare):
    one, two = (np.array(ok_json(*bare, "--threads", n)["actions"]) for n in "12")
    assert np.linalg.norm(one - two) < 1e-5 * np.linalg.norm(one)


# ---- what the model gets ----


def test_dump_of_the_bare_model(picture, tmp_path):
    path = tmp_path / "in.safetensors"
    ok("infer", "--model", "tiny-pi0", "--image", f"left_wrist_0_rgb={picture}", "--tokens", "7,8", "--state",
       "0.25,-1e-3,3", "--no-run", "--dump-inputs", path)
    tensors, _ = read_safetensors(path)
    assert tensors.keys() == {"state", "image_mask", "tokens", "token_mask", *(f"image/{c}" for c in MODEL_CAMERAS)}
    assert tensors["state"].dtype == np.float64 and list(tensors["state"][:4]) == [0.25, -1e-3, 3, 0]
    assert tensors["state"].shape == (32,) and not tensors["state"][3:].any()
    assert list(tensors["image_mask"]) == [False, True, False]
    for camera in MODEL_CAMERAS:
        image = tensors[f"image/{camera}"]
        assert image.shape == (56, 56, 3) and image.dtype == np.uint8
        assert image.any() == (camera == "left_wrist_0_rgb")
    assert tensors["tokens"].dtype == np.int64 and list(tensors["tokens"][:3]) == [7, 8, 0]
    assert list(tensors["token_mask"]) == [True, True] + [False] * (len(tensors["tokens"]) - 2)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("config, request_name", [("pi0_aloha", "request_aloha"), ("pi05_droid", "request_droid"),
                                                  ("pi0_libero", "request_libero"),
                                                  ("pi0_libero", "request_libero_float_images")])
def test_requests_as_they_go_over_the_wire(config, request_name, tmp_path):
    path = tmp_path / "in.safetensors"
    ok("infer", "--config", config, "--request", REQUESTS / f"{request_name}.msgpack", "--tokenizer", TOKENIZER,
       "--no-run", "--dump-inputs", path)
    tensors, _ = read_safetensors(path)
    assert tensors["image/base_0_rgb"].shape == (224, 224, 3) and tensors["image_mask"][0]
    assert tensors["tokens"].shape == (200 if "pi05" in config else 48,)


def test_golden_requests_through_options(tmp_path):
    """The same observation by --request and spelled out gives the model the same."""
    a, b = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    pixels = np.random.default_rng(2).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    from openpi_client import msgpack_numpy
    state = np.linspace(-0.5, 0.5, 8)
    (tmp_path / "r.msgpack").write_bytes(msgpack_numpy.packb({
        "observation/image": pixels, "observation/wrist_image": pixels, "observation/state": state,
        "prompt": "put it_down"}))
    words = ["infer", "--config", "pi0_libero", "--tokenizer", TOKENIZER, "--no-run", "--dump-inputs"]
    ok(*words, a, "--request", tmp_path / "r.msgpack")
    ok(*words, b, "--image", f"observation/image={tmp_path}/x.png", "--image",
       f"observation/wrist_image={tmp_path}/x.png", "--state", ",".join(map(repr, state.tolist())), "--prompt",
       "put it_down")
    one, two = read_safetensors(a)[0], read_safetensors(b)[0]
    assert one.keys() == two.keys()
    for name in one:
        assert (one[name] == two[name]).all(), name


def test_no_run_and_model_actions_need_no_weights(tmp_path, picture):
    """Full-size configs answer at once, because no weights are made."""
    words = ["infer", "--config", "pi0_aloha_sim", "--image", f"cam_high={picture}", "--tokens", "5"]
    text = ok(*words, "--no-run", timeout=10)
    assert "base_0_rgb" in text and "1 valid of 48" in text
    np.save(tmp_path / "m.npy", np.zeros((50, 32), np.float32))
    result = ok_json(*words, "--model-actions", tmp_path / "m.npy", timeout=10)
    assert result["shape"] == [50, 14]
    # a model that answers zeros leaves the output map of the grippers: ((0 + 0.5476) + 0.6213) / 2.1123
    assert result["actions"][0][6] == pytest.approx(0.5533778346) and result["actions"][0][0] == 0
    np.save(tmp_path / "m.npy", np.zeros((10, 32), np.float32))
    refused(*words, "--model-actions", tmp_path / "m.npy", codes=[1], says="expected float32 [50, 32]")


# ---- robots ----


def test_config_brings_horizon_and_width(picture):
    result = ok_json("infer", "--config", "pi0_aloha_sim", "--model", "tiny-pi0", "--image", f"cam_high={picture}",
                     "--tokens", "5")
    assert result["shape"] == [50, 14]


def test_prompt_needs_a_tokenizer_and_a_default_stands_in(picture):
    words = ["infer", "--config", "pi0_droid", "--image", f"observation/exterior_image_1_left={picture}", "--no-run"]
    refused(*words, "--prompt", "pick it up", says="tokenizer")
    assert "valid of 48" in ok(*words, "--prompt", "pick it up", "--tokenizer", TOKENIZER)
    assert "valid of 48" in ok(*words, "--default-prompt", "pick it up", "--tokenizer", TOKENIZER)


def test_long_prompt_is_cut_with_a_warning(picture):
    done = pi0("infer", "--config", "pi0_droid", "--image", f"observation/exterior_image_1_left={picture}", "--prompt",
               "word " * 10000, "--tokenizer", TOKENIZER, "--no-run")
    assert done.returncode == 0 and "48 valid of 48" in done.stdout
    assert done.stderr.startswith("pi0: warning: ")
    quiet = pi0("infer", "--config", "pi0_droid", "--image", f"observation/exterior_image_1_left={picture}", "--prompt",
                "word " * 10000, "--tokenizer", TOKENIZER, "--no-run", "-q")
    assert quiet.returncode == 0 and quiet.stderr == ""


def test_lerobot_checkpoint(tmp_path):
    checkpoint = GOLDEN / "lerobot_tiny_pi0"
    expected, metadata = read_safetensors(checkpoint / "expected.safetensors")
    words = ["infer", "--checkpoint", checkpoint, "--tokenizer", TOKENIZER, "--precision", "f32"]
    for name, pixels in expected.items():
        if name.startswith("raw/observation.images."):
            Image.fromarray(pixels).save(tmp_path / f"{name[4:]}.png")
            words += ["--image", f"{name[4:]}={tmp_path / name[4:]}.png"]
    task = metadata.get("task") or metadata["prompt"]
    words += ["--state", ",".join(repr(float(x)) for x in expected["raw/observation.state"]), "--prompt", task]
    np.save(tmp_path / "noise.npy", expected["noise"])
    words += ["--noise", tmp_path / "noise.npy", "--dump-inputs", tmp_path / "in.safetensors"]
    ok(*words, "--out", tmp_path / "a.npy")
    actions = numbers(tmp_path / "a.npy")
    assert actions.dtype == np.float32 and actions.shape == expected["actions"].shape
    error = np.linalg.norm(actions - expected["actions"]) / np.linalg.norm(expected["actions"])
    assert error < 2e-5
    dumped, _ = read_safetensors(tmp_path / "in.safetensors")
    assert dumped["state"].dtype == np.float32 and (dumped["tokens"] == expected["tokens"]).all()
    assert (dumped["token_mask"] == expected["token_mask"].astype(bool)).all()
    images = [v for k, v in dumped.items() if k.startswith("image/")]
    assert len(images) == 3 and all(i.shape == (3, 56, 56) and i.dtype == np.float32 for i in images)
    refused(*words, "--config", "pi0_aloha", codes=[2], says="lerobot")


def test_steps_a_lerobot_checkpoint_asks_for(tmp_path):
    """config.json's num_inference_steps holds where the command line says nothing."""
    four = tmp_path / "four"
    shutil.copytree(GOLDEN / "lerobot_tiny_pi0", four)
    config = json.loads((four / "config.json").read_text())
    (four / "config.json").write_text(json.dumps(config | {"num_inference_steps": 4}))
    camera = next(name for name in config["input_features"] if name.startswith("observation.images."))
    Image.fromarray(np.full((56, 56, 3), 90, np.uint8)).save(tmp_path / "image.png")

    def actions(checkpoint, *words):
        return ok_json("infer", "--checkpoint", checkpoint, "--tokenizer", TOKENIZER, "--prompt", "pick up the cube",
                       "--image", f"{camera}={tmp_path / 'image.png'}", *words)["actions"]

    ten = actions(GOLDEN / "lerobot_tiny_pi0")
    assert actions(four) == actions(GOLDEN / "lerobot_tiny_pi0", "--steps", "4") != ten
    assert actions(four, "--steps", "10") == ten


# ---- batches ----


def test_batch_answers_as_alone(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = ["request_aloha", "request_aloha_one_camera", "request_aloha"]
    for i, name in enumerate(names):
        shutil.copy(REQUESTS / f"{name}.msgpack", folder / f"{i:06}.msgpack")
    (folder / "000000.response.msgpack").write_bytes(b"not a request")
    (folder / "notes.txt").write_text("neither")
    words = ["infer", "--config", "pi0_aloha", "--model", "tiny-pi0", "--tokenizer", TOKENIZER, "--seed", "3",
             "--default-prompt", "fold it"]
    assert "3 requests" in ok(*words, "--batch", folder, "--batch-size", "2", "--out", out)
    assert sorted(p.name for p in out.iterdir()) == ["000000.npy", "000001.npy", "000002.npy"]
    for i, name in enumerate(names):
        ok(*words, "--request", REQUESTS / f"{name}.msgpack", "--out", tmp_path / "alone.npy")
        alone, batched = numbers(tmp_path / "alone.npy"), numbers(out / f"{i:06}.npy")
        assert np.linalg.norm(alone - batched) <= 1e-5 * np.linalg.norm(alone)
    assert ok_json(*words, "--batch", folder, "--batch-size", "8", "--out", out)["requests"] == 3


def test_batch_with_a_bad_request_writes_nothing(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    words = ["infer", "--config", "pi0_aloha", "--model", "tiny-pi0", "--tokenizer", TOKENIZER, "--batch", folder,
             "--out", out]
    refused(*words, codes=[1], says="found none")
    shutil.copy(REQUESTS / "request_aloha.msgpack", folder / "000001.msgpack")
    (folder / "000002.msgpack").write_bytes(b"\xc1")
    refused(*words, codes=[1], says="000002.msgpack")
    assert not out.exists() or list(out.iterdir()) == []
    refused(*words[:-4], "--batch", tmp_path / "none", "--out", out, codes=[1], says="none")


def test_batch_in_shards_resumed_and_with_a_bad_request_among_good_ones(tmp_path):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for i in range(5):
        shutil.copy(REQUESTS / "request_aloha.msgpack", folder / f"{i:06}.msgpack")
    words = ["infer", "--config", "pi0_aloha", "--model", "tiny-pi0", "--tokenizer", TOKENIZER, "--batch", folder,
             "--batch-size", "2", "--out", out]
    names = lambda: sorted(p.name for p in out.iterdir())  # noqa: E731
    assert ok_json(*words, "--shard", "1/2")["requests"] == 2
    assert names() == ["000001.npy", "000003.npy"]
    first = (out / "000001.npy").stat().st_mtime_ns
    resumed = ok_json(*words, "--resume", "--shard", "1/2")
    assert (resumed["requests"], resumed["already_answered"]) == (0, 2)
    assert ok_json(*words, "--shard", "7/8")["requests"] == 0  # more parts than requests
    (folder / "000001.msgpack").write_bytes(b"\xc1")
    (folder / "000002.msgpack").write_bytes(b"\xc1")
    done = pi0(*words, "--resume", "--keep-going", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and done.stderr.count("000002.msgpack") == 1 and "000001" not in done.stderr
    assert (told["requests"], told["already_answered"], told["refused"]) == (2, 2, 1)
    assert names() == [f"{i:06}.npy" for i in (0, 1, 3, 4)] and (out / "000001.npy").stat().st_mtime_ns == first
    assert "1 refused" in pi0(*words, "--resume", "--keep-going").stdout
    for shard in ("2/2", "0/0", "x", "1", "-1/2", "0/2x", "1/2/3"):
        refused(*words, f"--shard={shard}", says="--shard")


# ---- refusals ----


@pytest.mark.parametrize("words, says", [
    ([], "no input"), (["--config", "pi0_aloha_sim"], "no input"), (["--state", "1,2"], "no input"),
    (["--prompt", "a", "--tokens", "1"], "expected one of them"),
    (["--request", "x", "--prompt", "a"], "cannot be added"), (["--request", "x", "--batch", "y"], "one of them"),
    (["--request", "x", "--state", "1"], "cannot be added"), (["--batch", "y"], "--out FOLDER"),
    (["--tokens", "1", "--batch-size", "2"], "--batch FOLDER"), (["--tokens", "1", "--resume"], "--batch FOLDER"),
    (["--tokens", "1", "--shard", "0/2"], "--batch FOLDER"), (["--tokens", "1", "--keep-going"], "--batch FOLDER"),
    (["--tokens", "1", "--seed", "1", "--noise", "x.npy"], "one of them"),
    (["--tokens", "1", "--no-run", "--model-actions", "x.npy"], "one of them"),
    (["--tokens", "1", "--no-run", "--out", "x.npy"], "nothing to write"),
    (["--tokens", "1", "--out", "x.txt"], ".npy, .csv or .json"), (["--tokens", "1", "--out", "x"], ".npy, .csv or"),
    (["--tokens", "1,x"], "--tokens"), (["--tokens", "-1"], "--tokens"), (["--tokens", ""], "--tokens"),
    (["--state", "1,,2", "--tokens", "1"], "--state"), (["--seed", "-1", "--tokens", "1"], "--seed"),
    (["--image", "a.png"], "expected KEY=FILE"), (["--image", "=a.png"], "expected KEY=FILE"),
    (["--image", "a="], "expected KEY=FILE"), (["--image", "a=b", "--image", "a=c"], "given twice"),
    (["--steps", "0", "--tokens", "1"], "--steps"), (["--num-steps", "1001", "--tokens", "1"], "--num-steps"),
    (["--horizon", "0", "--tokens", "1"], "--horizon"),
    (["--tokens", "1", "--config", "pi0_alhoa"], "pi0_aloha"),
])
def test_wrong_usage(words, says):
    refused("infer", *words, codes=[2], says=says)


def test_model_of_another_family():
    refused("infer", "--config", "pi0_aloha", "--model", "tiny-pi05", "--tokens", "1", says="pi0_aloha")
    refused("infer", "--config", "pi05_droid", "--checkpoint", GOLDEN / "tiny_pi0_checkpoint", "--tokens", "1")


@pytest.mark.parametrize("config", ["debug", "debug_pi05", "paligemma_diffusion_droid"])
def test_configs_that_the_reference_cannot_serve(config):
    refused("infer", "--config", config, "--tokens", "1", says=config)


@pytest.mark.parametrize("words, says", [
    (["--image", "head={picture}"], "head"),
    (["--config", "pi0_aloha", "--image", "cam_top={picture}", "--tokens", "1"], "cam_top"),
    (["--config", "pi0_aloha", "--image", "cam_high={picture}", "--tokens", "1", "--state", "1,2,3"], "14"),
    (["--tokens", "512"], "512"),
    (["--image", "base_0_rgb=/nowhere.png"], "/nowhere.png"),
    (["--request", "/nowhere.msgpack"], "/nowhere.msgpack"),
    (["--tokens", "1", "--noise", "/nowhere.npy"], "/nowhere.npy"),
    (["--tokens", "1", "--tokenizer", "/nowhere.model"], "/nowhere.model"),
    (["--tokens", "1", "--config", "pi0_aloha", "--norm-stats", "/nowhere.json"], "/nowhere.json"),
])
def test_bad_input(words, says, picture):
    refused("infer", "--model", "tiny-pi0", *[w.format(picture=picture) for w in words], says=says)


def test_bad_images(picture, tmp_path):
    words = ["infer", "--model", "tiny-pi0", "--tokens", "1", "--image"]
    bad = tmp_path / "bad.png"
    for content in (b"", b"\x89PNG", b"hello", picture.read_bytes()[:200], picture.with_suffix(".jpg").read_bytes()[:300]):
        bad.write_bytes(content)
        refused(*words, f"base_0_rgb={bad}", codes=[1], says="bad.png")
    refused(*words, f"base_0_rgb={tmp_path}", codes=[1], says=str(tmp_path))
    Image.new("RGB", (20000, 1)).save(bad)
    refused(*words, f"base_0_rgb={bad}")
    Image.new("RGB", (1, 1), (9, 9, 9)).save(bad)
    assert pi0(*words, f"base_0_rgb={bad}").returncode == 0
    assert pi0(*words, f"base_0_rgb={picture.with_suffix('.jpg')}").returncode == 0


def test_bad_requests(tmp_path):
    for path in sorted(REQUESTS.glob("bad_*.msgpack")):
        refused("infer", "--config", "pi0_aloha", "--model", "tiny-pi0", "--request", path, codes=[1], says=str(path))
    refused("infer", "--config", "pi0_droid", "--model", "tiny-pi0", "--tokenizer", TOKENIZER, "--request",
            REQUESTS / "request_aloha.msgpack", codes=[1], says="request_aloha.msgpack")


def test_bad_checkpoints(tmp_path):
    words = ["infer", "--tokens", "1", "--checkpoint"]
    refused(*words, tmp_path, codes=[1], says=str(tmp_path))
    refused(*words, tmp_path / "none", codes=[1], says="none")
    whole = (GOLDEN / "tiny_pi0_checkpoint" / "model.safetensors").read_bytes()
    weights = tmp_path / "model.safetensors"
    for size in (0, 8, 4000, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:size])
        refused(*words, tmp_path, codes=[1], says="model.safetensors")
    assert pi0(*words, GOLDEN / "tiny_pi0_checkpoint").returncode == 0


def test_places_that_cannot_be_written(bare, tmp_path):
    """Refused before the work: these would take seconds otherwise, and with nothing left behind."""
    long = [*bare, "--horizon", "4000", "--steps", "1000"]
    for option, name in (("--out", "x.npy"), ("--dump-inputs", "x.safetensors")):
        refused(*long, option, tmp_path / "none" / name, codes=[1], says="cannot write", timeout=10)
        folder = tmp_path / name
        folder.mkdir()
        refused(*long, option, folder, codes=[1], says="directory", timeout=10)
        refused(*long, option, f"/proc/{name}", codes=[1], says="cannot write", timeout=10)
    locked = tmp_path / "locked.npy"
    locked.write_bytes(b"old")
    locked.chmod(0o444)
    refused(*long, "--out", locked, codes=[1], says="read-only", timeout=10)
    assert locked.read_bytes() == b"old"
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    refused(*long, "--out", closed / "x.npy", codes=[1], says="read-only", timeout=10)
    assert os.listdir(closed) == []
