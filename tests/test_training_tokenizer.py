"""Every word of the captions is one token, in the fast tokenizer and in the plain encoding."""

import pytest

from recipes.clevr.training.tokenizer import (
    END,
    MAX_LENGTH,
    START,
    WORDS,
    build_tokenizer,
    byte_pair_merges,
    encode_word,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("word", WORDS)
def test_each_word_is_one_token(tokenizer, word):
    start, *middle, end = tokenizer(word).input_ids
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (start, end)
    assert len(middle) == 1


def test_words_have_different_tokens(tokenizer):
    assert len({tokenizer(word).input_ids[1] for word in WORDS}) == len(WORDS)


def test_the_vocabulary_of_the_captions_is_covered():
    from recipes.clevr.rendering.scene import COLORS, MATERIALS, SHAPES, SIZES

    assert {"a", "and", ",", *COLORS, *MATERIALS, *SHAPES, *SIZES} <= set(WORDS)


def test_captions_are_padded_with_the_end_marker(tokenizer):
    ids = tokenizer("a large red rubber cube and a small cyan metal cylinder", padding="max_length").input_ids
    assert len(ids) == MAX_LENGTH == tokenizer.model_max_length
    assert ids[0] == tokenizer.convert_tokens_to_ids(START)
    assert set(ids[12:]) == {tokenizer.convert_tokens_to_ids(END)}


def test_three_objects_fit_with_a_token_a_word_and_comma(tokenizer):
    text = "a large yellow rubber cylinder, a small purple metal sphere and a large brown rubber cube"
    ids = tokenizer(text).input_ids
    assert len(ids) == 2 + 3 * 5 + 2 <= MAX_LENGTH
    words = [tokenizer(word).input_ids[1] for word in text.replace(",", " ,").split()]
    assert ids[1:-1] == words


def test_an_unknown_word_is_spelled(tokenizer):
    assert len(tokenizer("zebra").input_ids) > 3


def test_both_file_forms_are_written(tmp_path):
    build_tokenizer(tmp_path)
    names = {file.name for file in tmp_path.iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"} <= names


def test_plain_encoding_agrees_with_the_merges():
    merges = byte_pair_merges()
    assert all(encode_word(word, merges) == [word + "</w>"] for word in WORDS)
    assert encode_word("cyan", []) == ["c", "y", "a", "n</w>"]
