"""Data set name -> texts, labels and splits -> token ids.

Rows of every split stand in the order of a hash of their content, so that splits, samples and batches depend on the texts
and the seed, never on the order of rows in a file; `Split.rows` leads back to the file.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import tokenizers

from gloss import docstrings
from gloss.config import ROOT, DatasetConfig

MANIFEST = ROOT / "data" / "manifest.json"
SPLIT_SEED = 0  # of the splits that we cut: the same texts are tested whatever the seed of a run
CUT_SHARE = 0.1  # of the texts, for validation and for test, where a set has no such split

csv.field_size_limit(2**31 - 1)  # the default stops at 131,072 characters


class DataError(ValueError):
    """Data that cannot be used; its text names the file, what is wrong and what to do."""


@dataclass(frozen=True)
class Split:
    """N texts of one split."""

    texts: list[tuple[str, ...]]  # one string, or (question, sentence)
    labels: np.ndarray  # int64 [N], index into TextDataset.labels
    rows: np.ndarray  # int64 [N], row in its file, from 0, the header not counted

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, index: np.ndarray) -> Split:
        """The rows at `index` (int [M]), in that order."""
        return Split([self.texts[i] for i in index], self.labels[index], self.rows[index])


@dataclass(frozen=True)
class TextDataset:
    """A data set with its three splits."""

    name: str
    labels: list[str]  # names in one fixed order
    splits: dict[str, Split]  # train, val, test
    fingerprint: str  # hex; of all texts and labels before `train_limit`, whatever the order of rows
    note: str | None  # what the user should be told: how the texts were split, other versions than the pinned ones


def load_dataset(cfg: DatasetConfig, data_dir: str | Path, seed: int) -> TextDataset:
    """Read, check and split a data set.

    data_dir: folder of the prepared sets (`<name>/train.csv.gz` …). seed: draws the sample of `cfg.train_limit` training texts;
    splits that the set itself lacks are cut from its training texts with a seed of their own, 10 % each, stratified (sst2 and
    qnli: validation from train, while the labelled dev split is the test split). Raises DataError.
    """
    readers = {"prepared": _read_prepared, "docstrings": _read_docstrings}
    labels, splits, notes = readers[cfg.source](cfg, Path(data_dir))
    splits = {part: split.take(np.argsort(_digests(split, labels), kind="stable")) for part, split in splits.items()}
    _check_classes(cfg.name, labels, splits)
    rows = len(splits["train"])
    for part in ("test", "val"):  # test first: all classes are tested, and validation may lack a rare one, as it does in r52
        if part not in splits:
            splits["train"], splits[part] = _cut(splits["train"], max(round(CUT_SHARE * rows), 1), part == "test")
            notes.append(f"{part}: {len(splits[part])} of the {rows} training texts, stratified, whatever the seed")
    splits = {part: splits[part] for part in ("train", "val", "test")}
    hashes = {part: fingerprint(_digests(split, labels)) for part, split in splits.items()}
    if cfg.train_limit is not None:
        if cfg.train_limit < len(labels):
            raise DataError(
                f"dataset.train_limit={cfg.train_limit} is too small for {cfg.name}: expected at least {len(labels)}, a text "
                "for each class"
            )
        if cfg.train_limit > len(splits["train"]):
            notes.append(f"dataset.train_limit={cfg.train_limit} has no effect on {len(splits['train'])} training texts")
        else:
            splits["train"] = splits["train"].take(_stratified(splits["train"].labels, cfg.train_limit, seed, least=1))
    whole = hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:32]
    return TextDataset(cfg.name, labels, splits, whole, "; ".join(notes) or None)


# -- order, fingerprints, splits ------------------------------------------------------------------------------------------------


def _digests(split: Split, labels: Sequence[str]) -> list[bytes]:
    """sha256 of each row's strings and label name. JSON keeps ("a", "b") and ("ab",) apart."""
    return [
        hashlib.sha256(json.dumps([*text, labels[label]]).encode()).digest()
        for text, label in zip(split.texts, split.labels.tolist(), strict=True)
    ]


def fingerprint(digests: Iterable[bytes]) -> str:
    """Hash of a multiset of rows: the sum of their hashes modulo 2**128, in hex.

    A sum does not depend on the order and, unlike an exclusive or, does not cancel where a row stands twice.
    """
    return f"{sum(int.from_bytes(digest[:16], 'big') for digest in digests) % 2**128:032x}"


def _stratified(labels: np.ndarray, size: int, seed: int, least: int = 0, leave: int = 0) -> np.ndarray:
    """Sorted indices of about `size` rows, each class in proportion: at least `least` a class, `leave` of it always left."""
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels)
    low, high = np.minimum(least, counts), np.maximum(counts - leave, 0)
    quota = counts * size / len(labels)
    num_taken = np.clip(np.floor(quota), low, high).astype(np.int64)
    while (missing := min(size, high.sum()) - num_taken.sum()) != 0:
        step = np.sign(missing)
        movable = num_taken < high if step > 0 else num_taken > low
        if not movable.any():  # the classes' own minimum is more than `size`
            break
        gap = np.where(movable, step * (quota - num_taken), -np.inf)
        num_taken[np.argmax(gap)] += step
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(num_taken)]
    return np.sort(np.concatenate(chosen))


def _cut(split: Split, size: int, keep_all_classes: bool) -> tuple[Split, Split]:
    """Two splits of one: what stays (a text of each class at least), and about `size` texts."""
    chosen = _stratified(split.labels, size, SPLIT_SEED, least=int(keep_all_classes), leave=1)
    return split.take(np.setdiff1d(np.arange(len(split)), chosen)), split.take(chosen)


def _check_classes(name: str, labels: Sequence[str], splits: dict[str, Split]) -> None:
    """What no training could use: one class, a class without training texts, a class too small for a cut."""
    if len(labels) < 2:
        raise DataError(f"{name} has one class, {labels[0]!r}: a classifier needs at least two")
    counts = np.bincount(splits["train"].labels, minlength=len(labels))
    for part, split in splits.items():
        for label, row in zip(split.labels, split.rows, strict=True):
            if counts[label] == 0:
                raise DataError(
                    f"{name}: the label {labels[label]!r} ({part}, row {row + 2}, the header being row 1) has no text in train: "
                    "add some, or take its rows out"
                )
    if "test" not in splits and counts.min() < 2:
        label = int(counts.argmin())
        row = splits["train"].rows[splits["train"].labels == label][0]
        raise DataError(
            f"{name}: the label {labels[label]!r} has one text (row {row + 2}, the header being row 1), and train and "
            "test need one each: add a text, take it out, or give a test file (dataset.test_path)"
        )


# -- reading --------------------------------------------------------------------------------------------------------------------


def read_table(path: Path, columns: Sequence[str], separator: str = ",", encoding: str = "utf-8") -> list[list[str]]:
    """The named columns of a CSV file (.gz too), every value as the string it is in the file; a list of rows.

    Raises DataError with file, row (as a spreadsheet counts: the header is row 1) and column.
    """
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: a damaged or cut-off gzip file ({error}): fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF", b"PAR1", b"\x1f\x8b")):
        raise DataError(f"{path}: not a CSV file (a spreadsheet, an archive or another binary format): save it as CSV")
    try:
        text = content.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)  # Excel writes a mark
    except LookupError:
        raise DataError(f"{path}: dataset.encoding={encoding} is unknown: try utf-8, cp1252 or latin-1") from None
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {line} is not {encoding} (byte 0x{content[error.start]:02x}): save the file as UTF-8, or set "
            "dataset.encoding (cp1252 is common on Windows)"
        ) from None
    rows = _parse(text, path, separator)
    header, *body = rows or [[]]
    places = []
    for column in columns:
        if header.count(column) != 1:
            what = "no column" if column not in header else "more than one column"
            raise DataError(
                f"{path}: {what} {column!r} in the header {header}: set dataset.text, dataset.label or dataset.separator"
                f" (now {separator!r})"
            )
        places.append(header.index(column))
    if not body:
        raise DataError(f"{path}: a header but no row")
    for number, row in enumerate(body, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}: row {number} has {len(row)} columns, and the header has {len(header)}: is a text with the separator "
                f"{separator!r} or a line end in it not quoted?"
            )
        for column, place in zip(columns, places, strict=True):
            if not row[place].strip():
                raise DataError(f"{path}: row {number}, column {column!r} is empty: fill it in or take the row out")
    return [[row[place] for place in places] for row in body]


def _parse(text: str, path: Path, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        rows = list(reader)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num} is not CSV ({error}): is a quote left open, or not doubled?") from None
    while rows and not rows[-1]:  # empty lines at the end
        rows.pop()
    return rows


def read_manifest() -> dict[str, Any]:
    """data/manifest.json: what the prepared sets must hold, and where they come from."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def _read_prepared(cfg: DatasetConfig, data_dir: Path) -> tuple[list[str], dict[str, Split], list[str]]:
    """<data_dir>/<name>/<part>.csv.gz, checked against the manifest."""
    sets = read_manifest()["sets"]
    if cfg.name not in sets:
        raise DataError(f"{cfg.name} is not in {MANIFEST}: expected one of {', '.join(sets)}")
    splits = {}
    for part in sets[cfg.name]["splits"]:
        path = data_dir / cfg.name / f"{part}.csv.gz"
        if not path.exists():
            raise DataError(
                f"{path}: no such file. Run `make data DATASETS={cfg.name}`, or set GLOSS_DATA_DIR (or paths.data) to a "
                "folder of prepared sets"
            )
        # GLUE's test labels are not public: its labelled dev split is the test split.
        splits["test" if part == "dev" else part] = read_prepared(path, cfg.name, part, sets[cfg.name])
    return list(sets[cfg.name]["labels"].values()), splits, []


def read_prepared(path: Path, name: str, part: str, entry: dict[str, Any]) -> Split:
    """One file of the prepared form; `entry` is the set's entry in the manifest. Raises DataError where they differ."""
    rows = read_table(path, [*entry["text"], "label"])
    numbers = {value: number for number, value in enumerate(entry["labels"])}
    if unknown := {row[-1] for row in rows} - numbers.keys():
        raise DataError(f"{path}: the label {sorted(unknown)[0]!r} is none of {', '.join(numbers)}: fetch the file again")
    split = _split_of(rows, [numbers[row[-1]] for row in rows])
    expected = entry["splits"][part]
    remedy = f"delete it and run `make data DATASETS={name}`"
    if len(split) != expected["rows"]:
        raise DataError(f"{path}: {len(split)} rows, where the manifest has {expected['rows']}: {remedy}")
    if expected["fingerprint"] is not None:
        found = fingerprint(_digests(split, list(entry["labels"].values())))
        if found != expected["fingerprint"]:
            raise DataError(
                f"{path}: the content differs from the manifest's, if only by a character (fingerprint {found}, expected "
                f"{expected['fingerprint']}): {remedy}"
            )
    return split


def _split_of(rows: Sequence[Sequence[str]], labels: Sequence[int]) -> Split:
    """A split in the order of its file; the last column of `rows` is the label."""
    return Split([tuple(row[:-1]) for row in rows], np.array(labels, dtype=np.int64), np.arange(len(rows)))


def _read_docstrings(cfg: DatasetConfig, data_dir: Path) -> tuple[list[str], dict[str, Split], list[str]]:
    parts, versions = docstrings.collect()
    pinned = read_manifest()["docstrings"]
    labels = list(docstrings.LIBRARIES)
    splits = {part: _split_of(rows, [labels.index(row[-1]) for row in rows]) for part, rows in parts.items()}
    found = {part: fingerprint(_digests(split, labels)) for part, split in splits.items()}
    if found == pinned["fingerprints"]:
        return labels, splits, []
    changed = [f"{name} {versions[name]} (pinned: {pin})" for name, pin in pinned["versions"].items() if versions[name] != pin]
    cause = "made from " + ", ".join(changed) if changed else "the installed packages differ from their release"
    return labels, splits, [f"these docstrings are not those of the pinned versions: {cause}"]


# -- token ids ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts, one after the other: those of text i are input_ids[offsets[i] : offsets[i + 1]]."""

    input_ids: np.ndarray  # int32 [total]
    token_type_ids: np.ndarray | None  # uint8 [total]; None where the model has none
    offsets: np.ndarray  # int64 [N + 1]

    def __len__(self) -> int:
        return len(self.offsets) - 1


def tokenize(texts: Sequence[tuple[str, ...]], tokenizer: Any, max_length: int, cache_dir: Path | None = None) -> Tokens:
    """Token ids with special tokens, cut at `max_length` (of a pair, the longer text is cut).

    texts: N tuples of one string or two; tokenizer: a Hugging Face tokenizer. With `cache_dir` the result is kept there under a
    hash of everything that it depends on, and a damaged file is made anew.
    """
    path = None
    if cache_dir is not None and (settings := _tokenizer_settings(tokenizer)) is not None:
        key = hashlib.sha256(settings.encode())
        key.update(json.dumps([max_length, list(texts)]).encode())
        path = Path(cache_dir) / f"{key.hexdigest()[:32]}.npz"
        if (tokens := _load_tokens(path)) is not None:
            return tokens
    has_types = "token_type_ids" in tokenizer.model_input_names
    ids, types = [], []
    for start in range(0, len(texts), 1000):
        columns = [list(column) for column in zip(*texts[start : start + 1000], strict=True)]
        batch = tokenizer(*columns, truncation=True, max_length=max_length, return_token_type_ids=has_types, verbose=False)
        ids += batch["input_ids"]
        types += batch["token_type_ids"] if has_types else []
    offsets = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    tokens = Tokens(_joined(ids, np.int32), _joined(types, np.uint8) if has_types else None, offsets)
    if path is not None:
        arrays = {"input_ids": tokens.input_ids, "offsets": offsets}
        if has_types:
            arrays["token_type_ids"] = tokens.token_type_ids
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez(file, **arrays)
    return tokens


def _joined(lists: list[list[int]], dtype: type) -> np.ndarray:
    return np.concatenate([np.array(one, dtype=dtype) for one in lists]) if lists else np.zeros(0, dtype)


def _tokenizer_settings(tokenizer: Any) -> str | None:
    """All that decides a fast tokenizer's output; None for a tokenizer in Python, which cannot be written down."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    rules = json.loads(backend.to_str())
    del rules["truncation"], rules["padding"]  # left over from the last call
    sides = [tokenizer.truncation_side, tokenizer.model_input_names]
    return json.dumps([tokenizers.__version__, type(tokenizer).__name__, sides, rules])


def _load_tokens(path: Path) -> Tokens | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            types = arrays["token_type_ids"] if "token_type_ids" in arrays else None
            return Tokens(arrays["input_ids"], types, arrays["offsets"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its place at `path` only when the block has ended well."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp's files are for the owner only
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# -- label noise ----------------------------------------------------------------------------------------------------------------


def add_label_noise(split: Split, fraction: float, num_classes: int, seed: int) -> Split:
    """The split with exactly round(fraction * N) labels changed, each to one of the other classes at random.

    fraction: from 0 to 1; num_classes: at least 2.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(split))[: round(fraction * len(split))]
    labels = split.labels.copy()
    labels[chosen] = (labels[chosen] + rng.integers(1, num_classes, len(chosen))) % num_classes
    return Split(split.texts, labels, split.rows)
