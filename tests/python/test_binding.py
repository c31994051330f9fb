"""The Python package in python/: installed with pip into an environment of its own, and used from this one."""

import ctypes
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from openpi_client import msgpack_numpy

from command import GOLDEN, PI0, ROOT, ok

LIBRARY = PI0.parent / "libpi0.so"
os.environ.setdefault("PI0_LIBRARY", str(LIBRARY))
sys.path.insert(0, str(ROOT / "python"))

import pi0  # noqa: E402
from pi0 import _library, _pack  # noqa: E402
from serving import image, observation  # noqa: E402

TOKENIZER = GOLDEN / "tokenizer" / "tiny.model"
OPTIONS = {"model": "tiny-pi0", "precision": "f32", "threads": 1, "backend": "cpu"}


@pytest.fixture(scope="module")
def engine():
    with pi0.Engine(**OPTIONS) as opened:
        yield opened


def scene(seed=0, horizon=10):
    rng = np.random.default_rng(seed)
    return pi0.Observation(images=[image(rng, size=56), None, image(rng, size=56)], tokens=[2, 7, 11],
                           state=rng.normal(size=32), noise=pi0.noise(seed, (horizon, 32)))


# ---- the header in ctypes' words ----


def test_structs_are_laid_out_as_the_c_compiler_does(tmp_path):
    lines = ['#include <pi0.h>', '#include <stdio.h>', 'int main(void) {']
    expected = []
    for name, struct in _library.STRUCTS.items():
        lines.append(f'printf("%zu\\n", sizeof({name}));')
        expected.append(ctypes.sizeof(struct))
        for field, _ in struct._fields_:
            lines.append(f'printf("%zu\\n", offsetof({name}, {field}));')
            expected.append(getattr(struct, field).offset)
    (tmp_path / "layout.c").write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run(["cc", "-I", ROOT / "include", tmp_path / "layout.c", "-o", tmp_path / "layout"], check=True)
    found = subprocess.run([tmp_path / "layout"], capture_output=True, text=True, check=True).stdout
    assert [int(line) for line in found.split()] == expected


def test_every_function_of_the_header_is_bound():
    header = (ROOT / "include" / "pi0.h").read_text()
    lines = [line for line in header.splitlines() if line.startswith("PI0_API ")]
    declared = {line.split("(")[0].split()[-1].lstrip("*") for line in lines}
    assert set(_library.FUNCTIONS) == declared - {"pi0_set_allocator"}  # memory of the process: not for Python


@pytest.mark.parametrize("value", [
    None, True, -1, -33, 127, 200, 1 << 40, -(1 << 40), 2**64 - 1, 1.5, "", "é" * 40, "x" * 300, "y" * 70000, b"raw",
    b"\0" * 70000, [], list(range(20)), {"a": {"b": [1, "c"]}}, {str(i): i for i in range(20)}])
def test_packing(value):
    assert msgpack_numpy.unpackb(_pack.pack(value)) == value


@pytest.mark.parametrize("array", [np.float32(1.5), np.bool_(True), np.zeros((0, 3)), np.arange(6, dtype=">i4"),
                                   np.array("prompt"), np.array(["a", "bcd"]), np.arange(24).reshape(2, 3, 4).T,
                                   np.zeros((200, 200, 3), np.uint8)])
def test_packing_arrays(array):
    found = msgpack_numpy.unpackb(_pack.pack({"x": array}))["x"]
    assert np.array_equal(found, array)
    if isinstance(array, np.ndarray):
        assert found.dtype == array.dtype and found.shape == array.shape


def test_packing_refuses():
    for bad in ({1: 2}, {"x": object()}, np.zeros(2, complex)):
        with pytest.raises(TypeError):
            _pack.pack(bad)


# ---- engine and session ----


def test_description(engine):
    info = engine.info
    assert (info.family, info.action_dim, info.image_size, info.backend, info.precision, info.layout) == \
        ("pi0", 32, 56, "cpu", "f32", "synthetic")
    assert info.parameters > 0 and info.weights_bytes > 0 and info.device_name
    assert any(d.backend == "cpu" and d.usable for d in pi0.devices())
    assert pi0.library_version() == pi0.__version__ and pi0.library_path() == os.environ["PI0_LIBRARY"]


def test_noise_is_that_of_the_command_line():
    sys.path.insert(0, str(GOLDEN))
    import synthetic
    assert np.array_equal(pi0.noise(5, (10, 32)).ravel(), np.asarray(synthetic.normal("noise", 5, 320), np.float32))


def test_inference_batches_and_timings(engine):
    with engine.session() as session:
        alone = [session.infer(scene(i)) for i in range(3)]
        assert alone[0].shape == (10, 32) and alone[0].dtype == np.float32
        assert np.array_equal(alone[0], session.infer(scene(0))) and not np.array_equal(alone[0], alone[1])
        timings = session.timings()
    assert list(timings.stages) == ["ViT", "LLM prefill", "Diffusion", "Other"]
    assert 0 < sum(timings.stages.values()) <= timings.total_ms * 1.01 and timings.workspace_bytes > 0
    with engine.session(max_batch=3) as session:
        together = session.infer_batch([scene(i) for i in range(3)])
    assert np.allclose(together, alone, atol=1e-4)


def test_images_as_floats_masks_and_what_they_are_worth(engine):
    with engine.session() as session:
        o = scene()
        whole = session.infer(o)
        floats = [None if p is None else np.moveaxis(np.asarray(p), 2, 0).astype(np.float32) / 127.5 - 1
                  for p in o.images]
        assert np.allclose(session.infer(pi0.Observation(floats, o.tokens, o.state, o.noise)), whole, atol=1e-5)
        masked = pi0.Observation(o.images, [2, 99, 7, 11], o.state, o.noise, token_mask=[True, False, True, True])
        assert np.array_equal(session.infer(masked), whole)


def test_stage_results(engine):
    with engine.session(record=True) as session:
        actions = session.infer(scene())
        x = session.read("x").reshape(10, 10, 32)
        v = session.read("v").reshape(10, 10, 32)
        assert np.allclose(x[-1] - v[-1] / 10, actions, atol=1e-5) or np.allclose(x[-1], actions, atol=1e-5)
        with pytest.raises(pi0.ArgumentError):
            session.read("nothing")


def test_profile_and_trace(engine):
    events = []
    with engine.session(profile=True, trace=events.append) as session:
        session.infer(scene())
        ops = session.timings().ops
    assert ops["Diffusion"]["GEMM"][0] > 0 and ops["Diffusion"]["GEMM"][1] > 0
    assert {"inference", "stage"} <= {event.kind for event in events}
    assert all(event.duration_us >= 0 and event.name for event in events)


def test_wrong_arguments(engine):
    with engine.session() as session:
        good = scene()
        for field, value, says in [("noise", None, "noise"), ("noise", np.zeros((3, 32)), r"\[10, 32\]"),
                                   ("state", None, "state"), ("state", np.zeros(7), r"\[32\]"),
                                   ("images", [np.zeros((20, 20, 3), np.uint8)], r"\[56, 56, 3\]"),
                                   ("images", [None] * 4, "at most"), ("tokens", [512], "0 to 511"),
                                   ("tokens", [-1], "0 to 511"), ("tokens", [1.5], "integers"),
                                   ("token_mask", [True], "token_mask")]:
            bad = pi0.Observation(**{**vars(good), field: value})
            with pytest.raises(ValueError, match=says):
                session.infer(bad)
        with pytest.raises(TypeError, match="int64"):
            session.infer(pi0.Observation([np.zeros((56, 56, 3), int)], [2], good.state, good.noise))
        with pytest.raises(pi0.ArgumentError):
            session.infer_batch([good, good])
        with pytest.raises(pi0.ArgumentError):
            session.infer(pi0.Observation((), [], good.state, good.noise))
        assert session.infer(good).shape == (10, 32)


def test_errors_have_their_classes(tmp_path):
    with pytest.raises(pi0.ArgumentError, match="expected one of auto, pi0"):
        pi0.Engine(model="large")
    with pytest.raises(pi0.Error, match=str(tmp_path / "absent")):
        pi0.Engine(tmp_path / "absent")
    with pytest.raises(pi0.FileError):
        pi0.Policy("pi0_aloha_sim", tokenizer=tmp_path / "absent", model="tiny-pi0")
    with pytest.raises(pi0.UnsupportedError):
        pi0.Engine(model="tiny-pi0", backend="hip")
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(pi0.FormatError):
        pi0.Engine(tmp_path)


def test_progress_can_cancel_and_raise():
    seen = []
    pi0.Engine(**OPTIONS, progress=lambda what, fraction: seen.append((what, fraction))).close()
    assert seen and all(0 <= fraction <= 1 for _, fraction in seen)
    with pytest.raises(pi0.CancelledError):
        pi0.Engine(**OPTIONS, progress=lambda what, fraction: False)
    with pytest.raises(ZeroDivisionError):
        pi0.Engine(**OPTIONS, progress=lambda what, fraction: 1 / 0)


def test_closing():
    engine = pi0.Engine(**OPTIONS)
    session = engine.session()
    engine.close()  # takes its sessions with it
    assert engine.closed and session.closed
    engine.close()
    session.close()
    for use in (lambda: session.infer(scene()), engine.session, session.timings):
        with pytest.raises(pi0.ArgumentError, match="closed"):
            use()


def test_threads_with_a_session_each(engine):
    expected = [None] * 4
    with engine.session() as session:
        expected = [session.infer(scene(i)) for i in range(4)]
    failures = []

    def work(i):
        try:
            with engine.session() as mine:
                for _ in range(10):
                    assert np.array_equal(mine.infer(scene(i)), expected[i])
        except BaseException as error:  # noqa: BLE001 - for the main thread to tell
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_other_threads_run_during_an_inference(engine):
    """The interpreter's lock is given up: a counter goes on while the model works."""
    with engine.session(num_steps=1000) as session:
        done = threading.Event()
        worker = threading.Thread(target=lambda: (session.infer(scene()), done.set()))
        worker.start()
        count = 0
        while not done.wait(0.001):
            count += 1
        worker.join()
    assert count > 5


# ---- policy and robot ----


def robot(config="pi0_aloha_sim", **options):
    options = {"model": "tiny-pi05" if "pi05" in config else "tiny-pi0", "precision": "f32", "threads": 1,
               "backend": "cpu", "seed": 3, **options}
    return pi0.Robot(config=config, tokenizer=TOKENIZER, **options)


@pytest.mark.parametrize("config", ["pi0_aloha_sim", "pi0_aloha", "pi05_droid", "pi0_libero", "pi05_ur5"])
def test_actions_are_those_of_the_command_line(config, tmp_path):
    request = observation(config)
    (tmp_path / "request.msgpack").write_bytes(msgpack_numpy.packb(request))
    ok("infer", "--config", config, "--model", "tiny-pi05" if "pi05" in config else "tiny-pi0", "--tokenizer",
       TOKENIZER, "--request", tmp_path / "request.msgpack", "--seed", 3, "--precision", "f32", "--threads", 1, "--backend", "cpu",
       "--out", tmp_path / "actions.npy")
    expected = np.load(tmp_path / "actions.npy")
    with robot(config) as r:
        for form in (request, msgpack_numpy.packb(request)):
            found = r.infer(form)["actions"]
            assert found.dtype == expected.dtype and np.array_equal(found, expected)
        assert np.array_equal(r.infer(request, noise=pi0.noise(3, (r.policy.info.horizon, 32)))["actions"], expected)
        assert not np.array_equal(r.infer(request, seed=4)["actions"], expected)
        assert r.timings().total_ms > 0 and isinstance(r.metadata, dict)
        r.reset()


def test_requests_built_by_hand():
    sent = observation("pi0_libero")
    with robot("pi0_libero") as r, pi0.Request() as request:
        request.set_image("observation/image", sent["observation/image"])
        request.set_image("observation/wrist_image", sent["observation/wrist_image"])
        request.set_state(sent["observation/state"], "observation/state")
        request.set_prompt(sent["prompt"])
        assert np.array_equal(r.infer(request)["actions"], r.infer(sent)["actions"])
        request.set_image_file("observation/image", GOLDEN.parent / "images" / "rgb.png")
        assert not np.array_equal(r.infer(request)["actions"], r.infer(sent)["actions"])
        with pytest.raises(ValueError, match="uint8"):
            request.set_image("observation/image", np.zeros((4, 4)))
        request.set_tokens([2, 5, 9])
        r.infer(request)


def test_refused_requests():
    with robot() as r:
        with pytest.raises(pi0.Error, match="state"):
            r.infer({"images": {}})
        with pytest.raises(pi0.FormatError):
            r.infer(b"\xc1")
        with pytest.raises(ValueError, match="noise"):
            r.infer(observation("pi0_aloha_sim"), noise=np.zeros(3))
        assert r.infer(observation("pi0_aloha_sim"))["actions"].shape == (50, 14)


def test_robots_that_share_an_engine_and_a_policy(engine):
    with pi0.Policy("pi0_aloha_sim", tokenizer=TOKENIZER, model="tiny-pi0") as policy:
        requests = [observation("pi0_aloha_sim", seed=i) for i in range(3)]
        with pi0.Robot(engine=engine, policy=policy, seed=1) as one, \
                pi0.Robot(engine=engine, policy=policy, seed=1, max_batch=3) as other:
            together = other.infer_batch(requests)
            for request, answer in zip(requests, together):
                assert np.allclose(one.infer(request)["actions"], answer["actions"], atol=1e-4)
            drawn = pi0.Robot(engine=engine, policy=policy)
            assert not np.array_equal(drawn.infer(requests[0])["actions"], drawn.infer(requests[0])["actions"])
        assert not engine.closed and not policy.closed


def test_a_lerobot_checkpoint():
    folder = GOLDEN / "lerobot_tiny_pi0"
    with pi0.Robot(folder, tokenizer=TOKENIZER, precision="f32", threads=1, backend="cpu", seed=0) as r:
        assert r.engine.info.layout == "lerobot" and r.policy.info.config is None


# ---- finding the library, and the installed package ----


def run(code, **environment):
    base = {k: v for k, v in os.environ.items() if k not in ("PI0_LIBRARY", "PYTHONPATH", "LD_LIBRARY_PATH")}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=base | environment,
                          cwd="/", timeout=60)


def test_a_library_that_is_not_there(tmp_path):
    package = tmp_path / "elsewhere" / "deep"
    shutil.copytree(ROOT / "python" / "pi0", package / "pi0", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import pi0; pi0.library_version()"
    for environment in ({}, {"PI0_LIBRARY": "/absent/libpi0.so"}):
        done = run(code, PYTHONPATH=str(package), **environment)
        assert done.returncode != 0 and "LibraryError: cannot load libpi0" in done.stderr
        assert "PI0_LIBRARY" in done.stderr and (not environment or "/absent/libpi0.so: no such file" in done.stderr)
    # beside the package
    (package / "pi0" / "libpi0.so").symlink_to(LIBRARY.resolve())
    assert run(code, PYTHONPATH=str(package)).returncode == 0


def test_a_library_of_another_abi(tmp_path):
    other = tmp_path / "libother.so"
    for body, says in (("int pi0_abi(void) { return 99; }", "expected a library with ABI 1, found ABI 99"),
                       ("int pi0_abi(void) { return 1; }", "not the library"), ("int x;", "not the library")):
        subprocess.run(["cc", "-shared", "-fPIC", "-xc", "-", "-o", other], input=body, text=True, check=True)
        done = run("import pi0; pi0.devices()", PYTHONPATH=str(ROOT / "python"), PI0_LIBRARY=str(other))
        assert done.returncode != 0 and "LibraryError" in done.stderr and says in done.stderr


def test_pip_install(tmp_path):
    """Into a new environment; the library that is built travels with the package."""
    source = tmp_path / "source"  # a copy: pip builds where the source is
    left_out = shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT / "python", source / "python", ignore=left_out)
    (source / "build").symlink_to(LIBRARY.parent)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    base = {k: v for k, v in os.environ.items() if k not in ("PI0_LIBRARY", "PYTHONPATH")}
    installed = subprocess.run([python, "-m", "pip", "install", "-q", "--disable-pip-version-check", source / "python"],
                               capture_output=True, text=True, env=base, timeout=300)
    assert installed.returncode == 0, installed.stderr
    code = ("import pathlib, pi0\n"
            "print(pi0.library_path(), pathlib.Path(pi0.__file__).with_name('py.typed').exists())\n"
            "with pi0.Robot(config='pi0_aloha_sim', model='tiny-pi0', seed=0, threads=1) as r:\n"
            "    print(r.policy.info.robot_action_dim)")
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, env=base, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    path, typed, width = done.stdout.split()
    assert pathlib.Path(path).is_relative_to(tmp_path / "venv") and typed == "True" and width == "14"
