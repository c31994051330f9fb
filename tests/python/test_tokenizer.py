"""Token ids against the sentencepiece package, prompts against an account of openpi's tokenizer in Python."""

import io
import random
import unicodedata

import numpy as np
import pytest
import sentencepiece

from request_tool import DATA, Refused, RequestTool

TINY = DATA / "golden" / "tokenizer" / "tiny.model"
EXAMPLE = DATA.parents[1] / "examples" / "tokenizer" / "tiny.model"
SENTENCES = ["pick up the red block and put it in the bowl", "fold the towel", "open the drawer, then close it",
             "wipe the table with the sponge", "Stack 3 cups", "uncap the pen"] * 20


def trained(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES), model_writer=model, minloglevel=2,
                                             hard_vocab_limit=False, **options)
    return model.getvalue()


MODELS = {
    "golden": lambda: TINY.read_bytes(),
    "example": lambda: EXAMPLE.read_bytes(),
    "unigram_nfkc": lambda: trained(vocab_size=120, model_type="unigram"),
    "bpe_nfkc_lower": lambda: trained(vocab_size=120, model_type="bpe", normalization_rule_name="nmt_nfkc_cf"),
    "bytes": lambda: trained(vocab_size=350, model_type="unigram", byte_fallback=True,
                             user_defined_symbols=["<box>", "cup"]),
    "char": lambda: trained(vocab_size=60, model_type="char"),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request):
    """(our tokenizer, the package's) over one model"""
    model = MODELS[request.param]()
    tool = RequestTool()
    tool.call("model", model)
    yield tool, sentencepiece.SentencePieceProcessor(model_proto=model)
    tool.close()


@pytest.fixture(scope="module")
def tiny():
    tool = RequestTool()
    tool.call("model", TINY.read_bytes())
    yield tool, sentencepiece.SentencePieceProcessor(model_proto=TINY.read_bytes())
    tool.close()


ALPHABETS = ["abcdefghijklmnopqrstuvwxyz     ", "pick up the red block_\n\t ", "0123456789.,;: -",
             "\0\n\r \u00a0\u2003\u3000\u200b\ufeff", "\u2581 <box>cup<0x0A>", "äöüßéñçŁ", "机器人拿起红色方块",
             "🤖🦾👩🏽‍🔧🇨🇭", "ﬁ²½Å①ﷺ"]


def texts(seed, count):
    rng = random.Random(seed)
    for _ in range(count):
        if rng.random() < 0.3:
            yield "".join(c for c in (chr(rng.randrange(0x110000)) for _ in range(rng.randrange(40)))
                          if unicodedata.category(c) != "Cs")
        else:
            yield "".join(rng.choice(rng.choice(ALPHABETS)) for _ in range(rng.randrange(120)))


def test_random_texts_give_the_packages_ids(pair):
    ours, package = pair
    for text in texts(1, 400):
        assert ours.encode(text) == package.encode(text), repr(text)


def openpi_prompt(package, text, state, max_tokens):
    cleaned = text.strip().replace("_", " ").replace("\n", " ")
    if state is None:
        ids = package.encode(cleaned, add_bos=True) + package.encode("\n")
    else:
        bins = np.digitize(state, bins=np.linspace(-1, 1, 256 + 1)[:-1]) - 1
        ids = package.encode(f"Task: {cleaned}, State: {' '.join(map(str, bins))};\nAction: ", add_bos=True)
    return (ids + [0] * max_tokens)[:max_tokens]


def test_random_prompts_are_openpis(tiny):
    ours, package = tiny
    rng = np.random.default_rng(2)
    edges = np.linspace(-1, 1, 257)
    special = np.concatenate([edges, np.nextafter(edges, 9), np.nextafter(edges, -9),
                              [0.0, -0.0, 5e-324, -5e-324, 1e300, -1e300, np.inf, -np.inf, np.nan]])
    for text in texts(2, 400):
        state = None if rng.random() < 0.4 else rng.normal(0, 0.8, rng.integers(0, 33))
        if state is not None and rng.random() < 0.5:
            state = rng.choice(special, len(state))
        max_tokens = int(rng.choice([48, 200, 1, 10]))
        assert ours.prompt(text, state, max_tokens) == openpi_prompt(package, text, state, max_tokens), repr(text)


def test_ten_thousand_words(tiny):
    ours, package = tiny
    text = " ".join(["block", "towel"] * 5000)
    assert ours.prompt(text) == openpi_prompt(package, text, None, 48)
    assert ours.prompt(text, [0.5] * 14, 200) == openpi_prompt(package, text, [0.5] * 14, 200)


def test_lerobots_plain_prompt(tiny):
    ours, package = tiny
    for text in texts(3, 200):
        line = text if text.endswith("\n") else text + "\n"
        ids = (package.encode(line, add_bos=True) + [0] * 48)[:48]
        assert ours.prompt(text, option="lerobot") == ids, repr(text)


def test_damaged_models_do_no_harm(capfd):
    rng = random.Random(4)
    tool = RequestTool()
    for name in ("golden", "unigram_nfkc"):
        model = MODELS[name]()
        for _ in range(150):
            damaged = bytearray(model)
            for _ in range(rng.choice([1, 3, 30])):
                damaged[rng.randrange(len(model))] = rng.randrange(256)
            try:
                tool.call("model", bytes(damaged))
                tool.encode("pick up the red block ﬁ² 机器人")
            except Refused:
                pass
    tool.close()
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == ""
