"""Token ids of examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from gloss.errors import DataError


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, end to end: text i has input_ids[offsets[i] : offsets[i + 1]]."""

    input_ids: np.ndarray  # int32 [total]
    token_type_ids: np.ndarray | None  # uint8 [total]; None where the model has none
    offsets: np.ndarray  # int64 [N + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def tokenize(texts: Sequence[tuple[str, ...]], tokenizer: Any, max_length: int) -> Tokens:
    """Token ids with special tokens, cut at `max_length` (of a pair, the longer text is cut).

    texts: N tuples of one string or two; tokenizer: a Hugging Face tokenizer. Raises DataError where `max_length` is
    below the number of special tokens.
    """
    has_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[list[int]] = []
    types: list[list[int]] = []
    for start in range(0, len(texts), 1000):
        columns = [list(column) for column in zip(*texts[start : start + 1000], strict=True)]
        if max_length < (special := tokenizer.num_special_tokens_to_add(pair=len(columns) > 1)):  # it would cut nothing
            what = f"expected at least {special}, the special tokens of a text, and more for its words"
            raise DataError(f"model.max_length={max_length} is not allowed: {what}")
        batch = tokenizer(*columns, truncation=True, max_length=max_length, return_token_type_ids=has_types)
        ids += batch["input_ids"]
        types += batch["token_type_ids"] if has_types else []
    return Tokens(
        np.fromiter(chain.from_iterable(ids), np.int32),
        np.fromiter(chain.from_iterable(types), np.uint8) if has_types else None,
        np.cumsum([0, *map(len, ids)], dtype=np.int64),
    )


def check_tokens(texts: Sequence[tuple[str, ...]], tokens: Tokens, tokenizer: Any, max_length: int) -> None:
    """Raise DataError where (nearly) no word of the texts is known to the tokenizer.

    texts: N tuples of one string or two; tokens: the output of `tokenize` for them. A tokenizer without its vocabulary
    turns every word into the unknown token, or drops it; fewer than one known word in ten is taken as a sign of that.
    """
    counts = np.bincount(tokens.input_ids)
    special = {i for i in tokenizer.all_special_ids if i != tokenizer.unk_token_id}
    used = [int(i) for i in np.flatnonzero(counts) if i not in special]
    names = dict(zip(used, tokenizer.convert_ids_to_tokens(used), strict=True))
    unknown = int(counts[tokenizer.unk_token_id]) if tokenizer.unk_token_id in names else 0
    known = sum(int(counts[i]) for i in used if i != tokenizer.unk_token_id and any(map(str.isalnum, str(names[i]))))
    num_words = sum(min(sum(len(cell.split()) for cell in text), max_length) for text in texts)
    if known < 0.1 * max(known + unknown, num_words):
        found = f"{num_words:,} words became {known:,} known and {unknown:,} unknown tokens"
        advice = f"take one with its tokenizer files and the texts' language, or raise model.max_length={max_length}"
        raise DataError(f"the model's tokenizer knows (nearly) no word of the training texts: {found}; {advice}")


def count_truncated(texts: Sequence[tuple[str, ...]], tokens: Tokens, tokenizer: Any, max_length: int) -> int:
    """The number of texts with more than `max_length` tokens, which `tokens` has cut."""
    full = np.flatnonzero(np.diff(tokens.offsets) == max_length)
    longer = tokenize([texts[i] for i in full.tolist()], tokenizer, max_length + 1)
    return int((np.diff(longer.offsets) > max_length).sum())
