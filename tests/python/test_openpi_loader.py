"""A directory that `pi0 synth` wrote, read as openpi reads one: the safetensors package, whose load_model is strict about
names and shapes, and for norm_stats.json a pydantic model of numpy arrays (openpi shared/normalize.py)."""

import pydantic
import pytest
import safetensors
from numpydantic import NDArray

from command import ok

PALIGEMMA = "paligemma_with_expert.paligemma."
VISION = PALIGEMMA + "model.vision_tower.vision_model."
LANGUAGE = PALIGEMMA + "model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert."
VOCABULARY, ACTION = 512, 32


def linear(name, outputs, inputs):
    return {f"{name}.weight": [outputs, inputs], f"{name}.bias": [outputs]}


def norm(name, width):
    return {f"{name}.weight": [width], f"{name}.bias": [width]}


def vision(width=48, mlp=80, layers=2, tokens=16, patch=14, out=64):
    names = {VISION + "embeddings.patch_embedding.weight": [width, 3, patch, patch],
             VISION + "embeddings.patch_embedding.bias": [width],
             VISION + "embeddings.position_embedding.weight": [tokens, width],
             **norm(VISION + "post_layernorm", width),
             **linear(PALIGEMMA + "model.multi_modal_projector.linear", out, width)}
    for i in range(layers):
        layer = f"{VISION}encoder.layers.{i}."
        names |= norm(layer + "layer_norm1", width) | norm(layer + "layer_norm2", width)
        names |= linear(layer + "mlp.fc1", mlp, width) | linear(layer + "mlp.fc2", width, mlp)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            names |= linear(f"{layer}self_attn.{part}", width, width)
    return names


def gemma(prefix, width, mlp, modulated, layers=3, heads=8, head_dim=16):
    def gemma_norm(name):
        return linear(name + ".dense", 3 * width, width) if modulated else {name + ".weight": [width]}

    names = gemma_norm(prefix + "norm")
    for i in range(layers):
        layer = f"{prefix}layers.{i}."
        names |= gemma_norm(layer + "input_layernorm") | gemma_norm(layer + "post_attention_layernorm")
        names |= {layer + "self_attn.q_proj.weight": [heads * head_dim, width],
                  layer + "self_attn.k_proj.weight": [head_dim, width],
                  layer + "self_attn.v_proj.weight": [head_dim, width],
                  layer + "self_attn.o_proj.weight": [width, heads * head_dim],
                  layer + "mlp.gate_proj.weight": [mlp, width],
                  layer + "mlp.up_proj.weight": [mlp, width],
                  layer + "mlp.down_proj.weight": [width, mlp]}
    return names


def module(family, width=32):
    """Every name of openpi's module and its shape, but the alias of lm_head that the writer drops."""
    names = vision() | gemma(LANGUAGE, 64, 128, False) | gemma(EXPERT + "model.", width, 64, family == "pi05")
    names |= {PALIGEMMA + "lm_head.weight": [VOCABULARY, 64], EXPERT + "lm_head.weight": [VOCABULARY, width]}
    names |= linear("action_in_proj", width, ACTION) | linear("action_out_proj", ACTION, width)
    if family == "pi05":
        return names | linear("time_mlp_in", width, width) | linear("time_mlp_out", width, width)
    return (names | linear("state_proj", width, ACTION) | linear("action_time_mlp_in", width, 2 * width) |
            linear("action_time_mlp_out", width, width))


@pytest.mark.parametrize("family", ["pi0", "pi05"])
def test_the_strict_loader_finds_what_it_asks_for(tmp_path, family):
    ok("synth", tmp_path / "d", "--model", f"tiny-{family}", "--seed", 9)
    with safetensors.safe_open(tmp_path / "d" / "model.safetensors", framework="np") as file:
        found = {name: file.get_slice(name) for name in file.keys()}
        assert {name: part.get_shape() for name, part in found.items()} == module(family)
        assert {part.get_dtype() for part in found.values()} == {"BF16"}
        # the alias that load_model fills from the kept name
        assert file.metadata() == {LANGUAGE + "embed_tokens.weight": PALIGEMMA + "lm_head.weight"}
    blob = (tmp_path / "d" / "model.safetensors").read_bytes()
    for name, entry in safetensors.deserialize(blob):
        elements = 1
        for size in entry["shape"]:
            elements *= size
        assert len(entry["data"]) == 2 * elements, name


@pydantic.dataclasses.dataclass
class Statistics:
    mean: NDArray
    std: NDArray
    q01: NDArray | None = None
    q99: NDArray | None = None


class StatisticsFile(pydantic.BaseModel):
    norm_stats: dict[str, Statistics]


@pytest.mark.parametrize("config, asset, state, actions", [
    ("pi0_aloha_sim", "lerobot/aloha_sim_transfer_cube_human", 14, 14),
    ("pi05_libero", "physical-intelligence/libero", 8, 7)])
def test_statistics_through_pydantic(tmp_path, config, asset, state, actions):
    family = "pi05" if config.startswith("pi05") else "pi0"
    ok("synth", tmp_path / "d", "--model", f"tiny-{family}", "--config", config)
    text = (tmp_path / "d" / "assets" / asset / "norm_stats.json").read_text()
    stats = StatisticsFile.model_validate_json(text).norm_stats
    assert set(stats) == {"state", "actions"}
    for key, width in (("state", state), ("actions", actions)):
        entry = stats[key]
        for values, expected in ((entry.mean, 0), (entry.std, 1), (entry.q01, -1), (entry.q99, 1)):
            assert values.shape == (width,) and (values == expected).all()
