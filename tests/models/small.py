"""Small tokenizers, made without a download."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers.pre_tokenizers import ByteLevel
from transformers import BertTokenizer, RobertaTokenizer


def wordpiece(words: Iterable[str] = (), **settings: object) -> BertTokenizer:
    """A BERT tokenizer with these words in its vocabulary; settings: further arguments of BertTokenizer."""
    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    return BertTokenizer(vocab={word: i for i, word in enumerate(known)}, **settings)


def byte_level(letters: Iterable[str] = tuple(ByteLevel.alphabet())) -> RobertaTokenizer:
    """A RoBERTa tokenizer without merges: every byte is a token."""
    known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(letters)]
    return RobertaTokenizer(vocab={letter: i for i, letter in enumerate(known)}, merges=[])
