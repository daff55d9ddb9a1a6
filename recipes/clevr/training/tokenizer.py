"""A CLIP tokenizer whose words are those of CLEVR's captions, one token each.

CLIP's byte-pair encoding joins neighbouring symbols by a ranked list of merges; of all joins possible in a word
the one of lowest rank comes first. The list is built word by word: encode the word with the merges so far, and
while more than one symbol is left append the merge of the first two. Running the real encoding matters: merges
appended for one word also act inside the others (`an` inside `cyan`), and a list written down without them
would leave such words in pieces.

References: Sennrich et al., Neural machine translation of rare words with subword units, 2016, arXiv
1508.07909.
"""

import json
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer

WORDS: tuple[str, ...] = (
    *("a", "and", "the", ",", "."),
    *("large", "small"),
    *("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"),
    *("rubber", "metal"),
    *("cube", "sphere", "cylinder"),
    *("left", "right", "front", "behind", "of", "in", "on", "with", "object", "scene"),
)
START, END = "<|startoftext|>", "<|endoftext|>"
MAX_LENGTH = 32  # tokens, the two markers included
_LAST = "</w>"  # marks the symbol that ends a word


def encode_word(word: str, merges: list[tuple[str, str]]) -> list[str]:
    """The symbols that a word is encoded as: byte-pair encoding with `merges`, the earliest first."""
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    symbols = [*word[:-1], word[-1] + _LAST]
    while len(symbols) > 1:
        pairs = list(zip(symbols, symbols[1:], strict=False))
        best = min(range(len(pairs)), key=lambda place: ranks.get(pairs[place], len(ranks)))
        if pairs[best] not in ranks:
            break
        symbols[best : best + 2] = ["".join(pairs[best])]
    return symbols


def byte_pair_merges(words: tuple[str, ...] = WORDS) -> list[tuple[str, str]]:
    """Merges that leave each of `words` one symbol.

    A later merge may come to act inside an earlier word, so the list is checked until all words hold.
    """
    merges: list[tuple[str, str]] = []
    while any(len(encode_word(word, merges)) > 1 for word in words):
        for word in words:
            while len(symbols := encode_word(word, merges)) > 1:
                merges.append((symbols[0], symbols[1]))
    return merges


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """Write the tokenizer's files into `folder`, in the old form (`vocab.json`, `merges.txt`) and the new, and load it.

    The end marker is also the padding, as in Stable Diffusion 1.
    """
    merges = byte_pair_merges()
    alphabet = sorted(ByteLevel.alphabet())  # in CLIP's order: printable bytes stand for themselves and come first
    symbols = [*alphabet, *(symbol + _LAST for symbol in alphabet), *("".join(pair) for pair in merges), START, END]
    vocabulary = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    old = {"vocab.json": json.dumps(vocabulary, ensure_ascii=False), "merges.txt": "\n".join(lines) + "\n"}
    for name, text in old.items():
        (folder / name).write_text(text, encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH, pad_token=END)
    tokenizer.save_pretrained(folder)
    # newer releases of transformers write only tokenizer.json, older ones read only these two
    for name, text in old.items():
        (folder / name).write_text(text, encoding="utf-8")
    return tokenizer
