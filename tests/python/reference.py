"""The tiny model in float64 numpy: an independent reading of the architecture, for problems that no golden file has.

It follows the reference's bookkeeping, not the engine's: a row for every camera and padding token (NaN where nothing may
be compared), the state token in every step, every mask spelled out.
"""

import sys

import numpy as np

from command import GOLDEN, read_header

sys.path.insert(0, str(GOLDEN))
import synthetic  # noqa: E402

CAMERAS = ["base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"]
TOKENS, VISION_HEADS, HEADS, HEAD_DIM, WIDTH, EXPERT_WIDTH, LAYERS = 16, 4, 8, 16, 64, 32, 3
VISION = "paligemma_with_expert.paligemma.model.vision_tower.vision_model."
PROJECTOR = "paligemma_with_expert.paligemma.model.multi_modal_projector.linear"
LANGUAGE = "paligemma_with_expert.paligemma.model.language_model."
EXPERT = "paligemma_with_expert.gemma_expert.model."
EMBEDDING = "paligemma_with_expert.paligemma.lm_head.weight"


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))


def silu(x):
    return x / (1 + np.exp(-x))


def root_mean_square(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def rope(x, positions):
    """x [rows, heads, HEAD_DIM]; pairs (i, i + HEAD_DIM / 2)."""
    half = HEAD_DIM // 2
    angles = positions[:, None] * 10000.0 ** (-2 * np.arange(half) / HEAD_DIM)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b = x[..., :half], x[..., half:]
    return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)


class Model:
    def __init__(self, family, seed):
        self.family = family
        self.weights = {}
        for name, shape in read_header(GOLDEN / f"tiny_{family}_checkpoint" / "model.safetensors").items():
            name = EMBEDDING if "embed_tokens" in name else name
            bits = synthetic.to_bfloat16_bits(synthetic.parameter(name, tuple(shape), seed))
            self.weights[name] = (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def linear(self, name, x):
        y = x @ self.weights[name + ".weight"].T
        return y + self.weights.get(name + ".bias", 0)

    # ---- vision ----

    def layer_norm(self, name, x):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def see(self, image):
        """uint8 [56, 56, 3] -> [TOKENS, WIDTH]"""
        pixels = image.astype(np.float32) / np.float32(255) * np.float32(2) - np.float32(1)
        patches = pixels.astype(np.float64).reshape(4, 14, 4, 14, 3).transpose(0, 2, 4, 1, 3).reshape(TOKENS, 588)
        convolution = self.weights[VISION + "embeddings.patch_embedding.weight"].reshape(-1, 588)
        x = patches @ convolution.T + self.weights[VISION + "embeddings.patch_embedding.bias"]
        x = x + self.weights[VISION + "embeddings.position_embedding.weight"]
        for layer in range(2):
            prefix = f"{VISION}encoder.layers.{layer}."
            h = self.layer_norm(prefix + "layer_norm1", x)
            q, k, v = (self.linear(f"{prefix}self_attn.{n}_proj", h).reshape(TOKENS, VISION_HEADS, -1).swapaxes(0, 1)
                       for n in "qkv")
            mixed = softmax(q @ k.swapaxes(1, 2) * q.shape[-1] ** -0.5) @ v
            x = x + self.linear(prefix + "self_attn.out_proj", mixed.swapaxes(0, 1).reshape(TOKENS, -1))
            h = self.layer_norm(prefix + "layer_norm2", x)
            x = x + self.linear(prefix + "mlp.fc2", gelu(self.linear(prefix + "mlp.fc1", h)))
        return self.linear(PROJECTOR, self.layer_norm(VISION + "post_layernorm", x))

    # ---- Gemma ----

    def norm(self, name, x, condition):
        """(normalised, gate of the residual)"""
        if condition is None:
            return root_mean_square(x) * (1 + self.weights[name + ".weight"]), 1.0
        scale, shift, gate = np.split(self.linear(name + ".dense", condition), 3)
        return root_mean_square(x) * (1 + scale) + shift, gate

    def block(self, prefix, x, positions, cache, allowed, condition=None):
        """One layer. cache: (keys, values) before x's own; allowed [rows, all keys]. -> (x, keys, values) of x"""
        rows = len(x)
        h, gate = self.norm(prefix + "input_layernorm", x, condition)
        q = rope(self.linear(prefix + "self_attn.q_proj", h).reshape(rows, HEADS, HEAD_DIM), positions)
        k = rope(self.linear(prefix + "self_attn.k_proj", h).reshape(rows, 1, HEAD_DIM), positions)[:, 0]
        v = self.linear(prefix + "self_attn.v_proj", h)
        keys, values = np.concatenate([cache[0], k]), np.concatenate([cache[1], v])
        scores = np.einsum("qhd,kd->hqk", q, keys) * HEAD_DIM**-0.5
        mixed = softmax(np.where(allowed, scores, -1e300)) @ values
        x = x + gate * self.linear(prefix + "self_attn.o_proj", mixed.swapaxes(0, 1).reshape(rows, -1))
        h, gate = self.norm(prefix + "post_attention_layernorm", x, condition)
        gated = gelu(self.linear(prefix + "mlp.gate_proj", h)) * self.linear(prefix + "mlp.up_proj", h)
        return x + gate * self.linear(prefix + "mlp.down_proj", gated), k, v

    def remember(self, x):
        """Prefix rows (valid ones) -> keys and values of every layer."""
        nothing = (np.zeros((0, HEAD_DIM)), np.zeros((0, HEAD_DIM)))
        allowed, caches = np.ones((len(x), len(x)), bool), []
        for layer in range(LAYERS):
            x, keys, values = self.block(f"{LANGUAGE}layers.{layer}.", x, np.arange(len(x)), nothing, allowed)
            caches.append((keys, values))
        return caches

    # ---- the flow ----

    def suffix(self, x, state, time):
        """(tokens, adaRMS condition)"""
        half = EXPERT_WIDTH // 2
        rates = 2 * np.pi / (0.004 * 1000 ** (np.arange(half) / (half - 1)))
        embedding = np.concatenate([np.sin(rates * time), np.cos(rates * time)])
        actions = self.linear("action_in_proj", x)
        if self.family == "pi05":
            inner = silu(self.linear("time_mlp_in", embedding))
            return actions, silu(self.linear("time_mlp_out", inner))
        both = np.concatenate([actions, np.tile(embedding, (len(x), 1))], 1)
        actions = self.linear("action_time_mlp_out", silu(self.linear("action_time_mlp_in", both)))
        return np.concatenate([self.linear("state_proj", state[None]), actions]), None

    def velocity(self, x, state, time, caches):
        tokens, condition = self.suffix(x, state, time)
        prefix, rows = len(caches[0][0]), len(tokens)
        allowed = np.ones((rows, prefix + rows), bool)
        if self.family == "pi0":
            allowed[0, prefix + 1:] = False  # the state token does not see the actions
        positions = prefix + np.arange(rows)
        for layer, cache in enumerate(caches):
            tokens, _, _ = self.block(f"{EXPERT}layers.{layer}.", tokens, positions, cache, allowed, condition)
        h, _ = self.norm(EXPERT + "norm", tokens, condition)
        return self.linear("action_out_proj", h[-len(x):])


def solve(family, seed, prompt, pad, horizon, steps, masked):
    """(tensors, metadata) of a golden file for the tiny model."""
    model = Model(family, seed)
    seen = synthetic.observation(seed, height=56, width=56, prompt_tokens=prompt, vocabulary=512, horizon=horizon)
    rows = [np.full((TOKENS, WIDTH), np.nan) if c in masked else model.see(seen["images"][c]) for c in CAMERAS]
    rows += [model.weights[EMBEDDING][seen["tokens"]] * np.sqrt(WIDTH), np.full((pad, WIDTH), np.nan)]
    embeddings = np.concatenate(rows)
    valid = ~np.isnan(embeddings[:, 0])
    caches = model.remember(embeddings[valid])
    keys, values = np.full((2, LAYERS, len(embeddings), HEAD_DIM), np.nan)
    keys[:, valid], values[:, valid] = (np.array(side) for side in zip(*caches))

    x, time, step = seen["noise"].astype(np.float64), np.float32(1), np.float32(-1 / steps)
    states, velocities = [], []
    for _ in range(steps):
        v = model.velocity(x, seen["state"].astype(np.float64), float(time), caches)
        states.append(x)
        velocities.append(v)
        x, time = x + float(step) * v, np.float32(time + step)
    tensors = {"prefix_embeddings": embeddings, "prefix_keys": keys, "prefix_values": values, "x": np.array(states),
               "v": np.array(velocities), "actions": x}
    metadata = {"size": "tiny", "family": family, "seed": str(seed), "prompt": str(prompt), "pad": str(pad),
                "horizon": str(horizon), "steps": str(steps), "mask": "+".join(masked)}
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}, metadata
