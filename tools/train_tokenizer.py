#!/usr/bin/env python3
"""Trains examples/tokenizer/tiny.model: a small SentencePiece model that stands in for PaliGemma's.

Special ids are PaliGemma's: pad 0, eos 1, bos 2, unk 3, newline 108, runs of newlines and blanks after it. So are the
settings: BPE, byte fallback, digits split, text taken as it is. The words are those of a few hundred invented robot
instructions. Needs `pip install sentencepiece`.

    tools/train_tokenizer.py [OUTPUT.model] [--vocabulary N]
"""

import argparse
import io
import itertools
import pathlib
import random

import sentencepiece

ROOT = pathlib.Path(__file__).resolve().parents[1]

# ids 4 to 168 as in Gemma: reserved names up to 107, then 1 to 31 newlines, then 2 to 31 blanks
SYMBOLS = (["<mask>", "<2mass>", "[@BOS@]"] + [f"<unused{i}>" for i in range(99)] + ["<start_of_turn>", "<end_of_turn>"]
           + ["\n" * i for i in range(1, 32)] + ["\u2581" * i for i in range(2, 32)])
NEWLINE_ID = 108

VERBS = ["pick up", "grasp", "lift", "push", "move", "fetch", "hold", "place", "turn over", "hand me"]
COLOURS = ["red", "green", "blue", "yellow", "white", "black", "small", "large", "round", "wooden"]
THINGS = ["block", "cube", "cup", "bowl", "plate", "spoon", "towel", "pen", "bottle", "sponge", "box", "ball", "shirt",
          "carrot", "marker", "tape"]
PLACES = ["in the bowl", "on the plate", "into the box", "next to the cup", "on the left", "on the right",
          "in the drawer", "under the shelf", "on top of the stack", "to the other arm"]
WHOLE = ["fold the towel", "open the drawer", "close the drawer", "uncap the pen", "Transfer cube", "wipe the table",
         "open the tupperware and put the food on the plate", "pour the water into the glass", "stack the cups",
         "insert the peg into the socket", "turn on the stove", "press the button", "do something useful"]


def sentences():
    choose = random.Random(0)
    lines = list(WHOLE)
    for verb, thing in itertools.product(VERBS, THINGS):
        colour, place = choose.choice(COLOURS), choose.choice(PLACES)
        lines.append(f"{verb} the {colour} {thing}")
        lines.append(f"{verb} the {thing} and put it {place}")
    for line in list(lines):
        numbers = " ".join(str(choose.randrange(-1, 256)) for _ in range(choose.choice([7, 8, 14])))
        lines.append(f"Task: {line}, State: {numbers};\nAction: ")
        lines.append(line.capitalize() + choose.choice([".", "!", ", please."]))
    return lines


def train(vocabulary):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences()), model_writer=model, vocab_size=vocabulary, model_type="bpe",
        user_defined_symbols=SYMBOLS, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", eos_piece="<eos>",
        bos_piece="<bos>", unk_piece="<unk>", byte_fallback=True, split_digits=True, add_dummy_prefix=False,
        remove_extra_whitespaces=False, normalization_rule_name="identity", character_coverage=1.0, num_threads=1,
        minloglevel=2)
    return model.getvalue()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=pathlib.Path, default=ROOT / "examples" / "tokenizer" / "tiny.model")
    parser.add_argument("--vocabulary", type=int, default=1000, help="number of pieces")
    options = parser.parse_args()
    data = train(options.vocabulary)
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    assert model.encode("\n") == [NEWLINE_ID] and model.bos_id() == 2 and model.pad_id() == 0
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_bytes(data)
    print(f"{options.output}: {model.get_piece_size()} pieces, {len(data)} bytes")
    for text in ("pick up the red block", "Transfer cube"):
        print(f"    {text!r}: {model.encode(text, out_type=str)}")


if __name__ == "__main__":
    main()
