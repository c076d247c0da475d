"""Token ids of texts: equality with the tokenizers', the cache, the count of truncated texts."""

import contextlib

import numpy as np
import pytest
from small import byte_level, wordpiece
from test_data import WORDS, some_rows
from transformers import DistilBertTokenizer

from gloss.data.tokens import check_tokens, count_truncated, tokenize
from gloss.errors import DataError


@pytest.fixture(scope="module")
def bert():
    return wordpiece(WORDS)


def test_token_ids_equal_the_tokenizers(bert):
    texts = [(text,) for text, _ in some_rows(1234, seed=0)]
    tokens = tokenize(texts, bert, 8)
    assert len(tokens) == 1234 and tokens.input_ids.dtype == np.int32 and tokens.offsets.dtype == np.int64
    for i in (0, 999, 1000, 1233):
        ids = tokens.input_ids[tokens.offsets[i] : tokens.offsets[i + 1]].tolist()
        assert ids == bert.encode(texts[i][0], truncation=True, max_length=8)
        assert ids[0] == bert.cls_token_id and ids[-1] == bert.sep_token_id and len(ids) == 8


def test_pairs_have_the_token_types_of_their_model(bert):
    pair = [("what is it", "it is a film"), ("who", "the film")]
    tokens = tokenize(pair, bert, 16)
    assert tokens.token_type_ids.tolist() == [0] * 5 + [1] * 5 + [0] * 3 + [1] * 3  # [CLS] q [SEP] s [SEP]
    assert tokens.offsets.tolist() == [0, 10, 16]
    roberta = byte_level()
    found = tokenize(pair, roberta, 64)
    assert found.token_type_ids is None
    assert found.input_ids[: found.offsets[1]].tolist().count(roberta.sep_token_id) == 3  # <s> q </s></s> s </s>
    distilbert = DistilBertTokenizer(vocab=bert.get_vocab())
    assert tokenize(pair, distilbert, 16).token_type_ids is None
    assert tokenize(pair, distilbert, 16).input_ids.tolist() == tokens.input_ids.tolist()


def test_the_longer_text_of_a_pair_is_truncated(bert):
    tokens = tokenize([("what is it", "good " * 50)], bert, 12)
    words = bert.convert_ids_to_tokens(tokens.input_ids.tolist())
    assert words[:5] == ["[CLS]", "what", "is", "it", "[SEP]"] and len(words) == 12 and words[-1] == "[SEP]"


def test_a_length_below_the_special_tokens_is_refused(bert):
    for text, least in ((("good film",), 2), (("good", "film"), 3)):
        assert len(tokenize([text], bert, least).input_ids) == least
        with pytest.raises(DataError, match=f"model.max_length={least - 1} is not allowed: expected at least {least}"):
            tokenize([text], bert, least - 1)


def test_a_tokenizer_with_only_unknown_words_is_refused(bert):
    known = [(text,) for text, _ in some_rows(50, seed=0)]
    foreign = [("это совершенно другой язык, 1.",), ("и ещё один текст!",)] * 25
    pairs = [(text, text) for (text,) in known]
    roberta, nothing, empty = byte_level(), wordpiece("."), byte_level(())
    for texts, tokenizer, length, is_right in [
        (known, bert, 16, True), (known, bert, 4, True), (pairs, bert, 16, True), (foreign, roberta, 16, True),
        (known, roberta, 4, True), (known, bert, 2, False), (foreign, bert, 16, False), (known, nothing, 16, False),
        (pairs, nothing, 16, False), (known, empty, 16, False),
        (known[:2] + foreign, bert, 16, False), (known + foreign[:2], bert, 16, True),
    ]:  # fmt: skip
        tokens = tokenize(texts, tokenizer, length)
        with contextlib.nullcontext() if is_right else pytest.raises(DataError, match=r"knows \(nearly\) no word"):
            check_tokens(texts, tokens, tokenizer, length)


@pytest.mark.parametrize("max_length", [4, 5, 6, 40])
def test_truncated_texts_are_counted(bert, max_length):
    texts = [("good " * n,) for n in range(1, 8)] + [("good " * n, "bad " * 2) for n in range(1, 5)]
    for some in (texts[:7], texts[7:]):
        tokens = tokenize(some, bert, max_length)
        expected = sum(len(bert(*text)["input_ids"]) > max_length for text in some)
        assert count_truncated(some, tokens, bert, max_length) == expected
