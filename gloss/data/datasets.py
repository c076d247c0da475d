"""Data set name -> texts, labels and splits -> token ids.

The rows of a split stand in the order of a hash of their content, so that splits, samples and batches depend on the
texts and the seed and never on the order of rows in a file; `Split.rows` leads back to the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gloss.config import DatasetConfig
from gloss.data import docstrings
from gloss.data.cells import label_name
from gloss.data.checks import examine, words
from gloss.data.files import Examples, collect, read_examples, read_table
from gloss.data.splits import SPLIT_SEED, Split, right_class, stratified, whole_groups
from gloss.errors import DataError

MANIFEST = Path(__file__).parent / "manifest.json"
TRUNCATED_FRACTION = 0.1  # of the training texts, for a split that a set does not have


@dataclass(frozen=True)
class TextDataset:
    """A data set with its three splits."""

    name: str
    labels: list[str]  # names in one fixed order
    splits: dict[str, Split]  # train, val, test
    fingerprint: str  # hex; of all texts and labels before `train_limit`, whatever the order of rows
    notes: list[str]  # what the user should know: how texts were split, what is odd about them …
    unlabeled: Split | None = None  # texts without a label, -1, where the configuration names some


def load_dataset(cfg: DatasetConfig, data_dir: str | Path, seed: int) -> TextDataset:
    """Read, check and split a data set.

    data_dir: folder of the prepared sets (`<name>/train.csv.gz` …); seed: draws the sample of `cfg.train_limit`
    training texts. A split that the set does not have is cut from its training texts: 10 % each, stratified, with a
    seed of its own (sst2 and qnli: validation; their test split is GLUE's labelled dev split). Raises DataError.
    """
    source = SOURCES[cfg.source](cfg, Path(data_dir))
    if cfg.unlabeled_path is not None:
        source.add_unlabeled(_read_unlabeled(cfg))
    unlabeled = source.splits.pop("unlabeled", None)
    labels, splits, notes = source.labels, source.splits, source.notes
    _check_classes(cfg.path or cfg.name, labels, splits)
    num_rows = len(splits["train"])
    for part in ("test", "val"):
        if part not in splits:
            # Every class is tested; validation may lack a rare one, as it does in r52.
            size, least = max(round(TRUNCATED_FRACTION * num_rows), 1), int(part == "test")
            if splits["train"].groups is None:
                chosen = stratified(splits["train"].labels, size, SPLIT_SEED, least=least, leave=1)
            else:
                chosen = whole_groups(splits["train"].groups, size)
            if not len(chosen):
                raise DataError(
                    f"{cfg.name} has too few texts to cut {part} from its {len(splits['train'])} training texts, of "
                    f"which each class keeps one: add texts, or give a file of your own (dataset.{part}_path)"
                )
            kept = np.setdiff1d(np.arange(len(splits["train"])), chosen)
            splits[part], splits["train"] = splits["train"].take(chosen), splits["train"].take(kept)
            notes.append(_cut_note(part, splits, num_rows, labels))
    if cfg.train_limit is not None:
        splits["train"], rest = _limited(splits["train"], cfg, seed, len(labels), notes)
        if cfg.unlabeled == "rest":
            if not len(rest):
                raise DataError(f"dataset.unlabeled=rest: dataset.train_limit={cfg.train_limit} leaves no text out")
            unlabeled = Split(rest.texts, np.full(len(rest), -1), rest.rows)
    splits = {part: splits[part] for part in ("train", "val", "test")}
    _check_groups(cfg.path or cfg.name, labels, splits)
    return TextDataset(cfg.name, labels, splits, source.fingerprint(), notes, unlabeled)


# -- splits ------------------------------------------------------------------------------------------------------------
def _check_groups(name: str, labels: Sequence[str], splits: dict[str, Split]) -> None:
    """Refuse questions without one right option, in the splits that are scored."""
    for part in ("val", "test"):
        split = splits[part]
        if split.groups is not None and right_class(split.labels, split.groups) is None:
            raise DataError(
                f"{name}: dataset.group needs two classes, and in {part} one of them exactly once in each group: the "
                f"right option; the classes are {', '.join(map(repr, labels[:5]))}"
            )


def _limited(train: Split, cfg: DatasetConfig, seed: int, num_classes: int, notes: list[str]) -> tuple[Split, Split]:
    """The sample of `cfg.train_limit` training texts, and the rest."""
    limit = cfg.train_limit
    if limit < num_classes:
        raise DataError(
            f"dataset.train_limit={limit} is not allowed: {cfg.name} has {num_classes} classes and each needs a text"
        )
    if limit > len(train):
        notes.append(f"dataset.train_limit={limit} has no effect: there are {len(train)} training texts")
        return train, train.take(np.arange(0))
    chosen = stratified(train.labels, limit, seed, least=1)
    return train.take(chosen), train.take(np.setdiff1d(np.arange(len(train)), chosen))


def _cut_note(part: str, splits: dict[str, Split], num_rows: int, labels: Sequence[str]) -> str:
    cut = splits[part]
    note = f"{part} is {len(cut)} of the {num_rows} training texts (stratified, the same whatever the seed)"
    if lacking := [name for i, name in enumerate(labels) if i not in cut.labels]:
        note += f", without a text of {', '.join(lacking)}"
    train = set(map(words, splits["train"].texts))
    if num_same := sum(words(text) in train for text in cut.texts):
        note += f", {num_same} of them with the same words as a training text"
    return note


def _check_classes(name: str, labels: Sequence[str], splits: dict[str, Split]) -> None:
    """Refuse what cannot be trained or tested: one class, a class without training texts, one too small to split."""
    if len(labels) < 2:
        raise DataError(f"{name} has one class, {labels[0]!r}: a classifier needs at least two")
    counts = np.bincount(splits["train"].labels, minlength=len(labels))
    for part, split in splits.items():
        untrained = np.flatnonzero(counts[split.labels] == 0)
        if len(untrained):
            first = untrained[np.argmin(split.rows[untrained])]
            raise DataError(
                f"{name}: the label {labels[split.labels[first]]!r} ({part}, row {split.rows[first]}) does not "
                "occur in train: add training texts of it, or take its rows out"
            )
    if "test" not in splits and counts.min() < 2:
        label = int(counts.argmin())
        (row,) = splits["train"].rows[splits["train"].labels == label]
        raise DataError(
            f"{name}: the label {labels[label]!r} has one text (row {row}), but train and test need one each: "
            "add texts of it, take it out, or give test texts of your own (dataset.test_path)"
        )


# -- sources -----------------------------------------------------------------------------------------------------------
@dataclass
class _Source:
    """What a reader hands over: texts under one order of labels, with the splits that the source has."""

    labels: list[str]
    splits: dict[str, Split] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)  # fingerprint of each split
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        part: str,
        texts: list[tuple[str, ...]],
        labels: list[int],
        numbers: Sequence[int] | None = None,
        groups: Sequence[str] | None = None,
    ) -> None:
        """Add a split; numbers: of the rows (default: as in a prepared CSV file); groups: of the rows."""
        cells = texts if groups is None else [(*text, group) for text, group in zip(texts, groups, strict=True)]
        digests = row_digests(cells, [self.labels[label] for label in labels])
        numbers = range(2, len(texts) + 2) if numbers is None else numbers
        order = np.array(sorted(range(len(texts)), key=digests.__getitem__), dtype=np.int64)
        names = None if groups is None else np.array(groups)
        self.splits[part] = Split(texts, np.array(labels, dtype=np.int64), np.array(numbers), names).take(order)
        self.hashes[part] = fingerprint(digests)

    def add_unlabeled(self, texts: list[tuple[str, ...]]) -> None:
        """Texts without a label: -1."""
        digests = row_digests(texts, [""] * len(texts))
        order = np.array(sorted(range(len(texts)), key=digests.__getitem__), dtype=np.int64)
        split = Split(texts, np.full(len(texts), -1), np.arange(len(texts)))
        self.splits["unlabeled"], self.hashes["unlabeled"] = split.take(order), fingerprint(digests)

    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()[:32]


def row_digests(texts: Sequence[tuple[str, ...]], labels: Sequence[str]) -> list[bytes]:
    """sha256 of each row: its strings and its label's name, each after its length: ("a", "b") is not ("ab",)."""
    rows = ("".join(f"{len(cell)}:{cell}" for cell in (*t, label)) for t, label in zip(texts, labels, strict=True))
    return [hashlib.sha256(row.encode("utf-8", "surrogatepass")).digest() for row in rows]


def fingerprint(digests: Sequence[bytes]) -> str:
    """Hash of a multiset of rows: the sum of their hashes modulo 2**128, in hex.

    A sum does not depend on the order and, unlike an exclusive or, does not lose a row that stands there twice.
    """
    return f"{sum(int.from_bytes(digest[:16], 'big') for digest in digests) % 2**128:032x}"


def read_manifest() -> dict[str, Any]:
    """data/manifest.json: what the prepared sets must hold, and where they come from."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def _read_prepared(cfg: DatasetConfig, data_dir: Path) -> _Source:
    """<data_dir>/<name>/<part>.csv.gz, checked against the manifest every time: the hashes are needed anyway."""
    sets = read_manifest()["sets"]
    if cfg.name not in sets:
        raise DataError(f"dataset.name={cfg.name} is not a prepared set: expected one of {', '.join(sets)}")
    entry, remedy = sets[cfg.name], f"`make data DATASETS={cfg.name}`"
    source = _Source(list(entry["labels"].values()))
    for part in entry["splits"]:
        path = data_dir / cfg.name / f"{part}.csv.gz"
        if not path.exists():
            raise DataError(
                f"{path}: no such file. Run {remedy}, or set GLOSS_DATA_DIR or paths.data to a folder of prepared sets"
            )
        rows = read_table(path, [*cfg.text, cfg.label])
        if reason := difference(rows, entry, part):
            raise DataError(f"{path}: {reason}. Run {remedy} to make it again")
        numbers = {value: number for number, value in enumerate(entry["labels"])}
        known_as = "test" if part == "dev" else part  # GLUE's own test labels are not public
        source.add(known_as, [tuple(row[:-1]) for row in rows], [numbers[row[-1]] for row in rows])
    return source


def difference(rows: Sequence[Sequence[str]], entry: dict[str, Any], part: str) -> str | None:
    """How a prepared file's rows (text columns, then label) differ from the manifest's entry; None if they do not."""
    expected, names = entry["splits"][part], entry["labels"]
    if unknown := {row[-1] for row in rows} - names.keys():
        return f"the label {min(unknown)!r} is none of {', '.join(names)}"
    if len(rows) != expected["rows"]:
        return f"{len(rows)} rows, where the manifest has {expected['rows']}"
    if expected["fingerprint"] is not None and (found := fingerprint_of(rows, entry)) != expected["fingerprint"]:
        return f"another content than the manifest's (fingerprint {found}, expected {expected['fingerprint']})"
    return None


def fingerprint_of(rows: Sequence[Sequence[str]], entry: dict[str, Any]) -> str:
    """Fingerprint of a prepared file's rows."""
    return fingerprint(row_digests([tuple(row[:-1]) for row in rows], [entry["labels"][row[-1]] for row in rows]))


def _read_docstrings(cfg: DatasetConfig, data_dir: Path) -> _Source:
    try:
        parts, versions = docstrings.collect()
    except ModuleNotFoundError as error:  # PackageNotFoundError is one
        raise DataError(f"dataset=docstrings needs {error.name}: `pip install -r requirements.txt`") from None
    source = _Source(list(docstrings.LIBRARIES))
    for part, rows in parts.items():
        source.add(part, [(text,) for text, _ in rows], [source.labels.index(library) for _, library in rows])
    pinned = read_manifest()["docstrings"]
    if source.hashes != pinned["fingerprints"]:
        pins = pinned["versions"].items()
        other = [f"{name} {versions[name]} for {pin}" for name, pin in pins if versions[name] != pin]
        cause = "installed: " + ", ".join(other) if other else "the installed packages differ from their release"
        source.notes.append(f"these docstrings differ from the pinned versions' ({cause})")
    return source


def _read_csv(cfg: DatasetConfig, data_dir: Path) -> _Source:
    paths = {"train": cfg.path, "val": cfg.val_path, "test": cfg.test_path}
    parts = {
        part: read_examples(Path(path).expanduser(), _columns(cfg), cfg.separator, cfg.encoding)
        for part, path in paths.items()
        if path is not None
    }
    return _from_examples(cfg, parts)


def _columns(cfg: DatasetConfig) -> list[str]:
    """The texts', the group's where there is one, the label's."""
    return [*cfg.text, *([] if cfg.group is None else [cfg.group]), cfg.label]


def _read_unlabeled(cfg: DatasetConfig) -> list[tuple[str, ...]]:
    """The texts of `dataset.unlabeled_path`; other columns, a label's too, are not read."""
    columns = [*cfg.text, cfg.text[0]]  # the last stands for the label, which such a file need not have
    examples = read_examples(Path(cfg.unlabeled_path).expanduser(), columns, cfg.separator, cfg.encoding)
    return [tuple(row[:-1]) for row in examples.rows]


def _label_order(labels: set[str]) -> list[str]:
    """Whole numbers by value, anything else alphabetically."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)


def _from_examples(
    cfg: DatasetConfig, parts: dict[str, Examples], order: Sequence[str] = (), notes: Sequence[str] = ()
) -> _Source:
    """A user's own examples by split, checked; order: of the classes, where it is known. Raises DataError."""
    labels = {row[-1] for examples in parts.values() for row in examples.rows}
    source = _Source([x for x in order if x in labels] if order else _label_order(labels), notes=list(notes))
    for part, examples in parts.items():
        source.notes += [f"{part}: {note}" if len(parts) > 1 else note for note in examples.notes]
    try:
        source.notes += examine(parts)
    except DataError as error:
        raise DataError(f"{cfg.path}: {error}") from None
    index = {label: number for number, label in enumerate(source.labels)}
    for part, examples in parts.items():
        texts = [tuple(row[: len(cfg.text)]) for row in examples.rows]
        groups = None if cfg.group is None else [row[-2] for row in examples.rows]
        source.add(part, texts, [index[row[-1]] for row in examples.rows], examples.numbers, groups)
    return source


def _read_hub(cfg: DatasetConfig, data_dir: Path) -> _Source:
    """A Hugging Face data set: `path` is its name, or name:subset, or a folder of files that `datasets` reads.

    Where the last column of `text` holds options by name, each row is a question of which `label` names the right one.
    """
    import datasets  # slow to import, and needed here only

    name, _, subset = cfg.path.partition(":")
    columns = _columns(cfg)
    try:
        builder = datasets.load_dataset_builder(name, subset or None, revision=cfg.revision)
        is_csv = hasattr(builder.config, "converters") and builder.info.features is None
        # As they stand: pandas would make 7 of 007, and nothing of a text that reads NA.
        as_text = {"converters": dict.fromkeys(columns, str), "keep_default_na": False} if is_csv else {}
        found = datasets.load_dataset(name, subset or None, revision=cfg.revision, **as_text)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"dataset.path={cfg.path} (revision {cfg.revision}) cannot be read: {reason}") from None
    known = {"train": "train", "validation": "val", "test": "test"}
    notes, parts, order, group = [], {}, [], cfg.group
    for part, table in found.items():
        where = f"{cfg.path}, {part}"
        if missing := [column for column in columns if column not in table.column_names]:
            raise DataError(
                f"{where}: no column {missing[0]!r} among {', '.join(table.column_names)}: set "
                "dataset.text and dataset.label"
            )
        if part in known and len(table) and isinstance(table[0][cfg.text[-1]], dict):
            parts[known[part]] = _questions(table, cfg, where)
            group, order = cfg.text[0], ["wrong", "right"]
            continue
        kind, values = table.features[cfg.label], table[cfg.label][:]
        try:
            values = list(map(label_name, values))
        except DataError as error:
            raise DataError(f"{where}: column {cfg.label!r}: {error}") from None
        if isinstance(kind, datasets.ClassLabel):
            order, values = kind.names, [None if v in (None, "-1") else kind.names[int(v)] for v in values]
        if part not in known or set(values) <= {None, "-1"}:
            notes.append(f"{part} is left aside: {'no labels' if part in known else 'not train, validation or test'}")
            continue
        cells = [table[column][:] for column in cfg.text]
        if cfg.group is not None:
            cells.append([None if group is None else str(group) for group in table[cfg.group][:]])
        rows = enumerate(zip(*cells, values, strict=True), 1)
        parts[known[part]] = collect(rows, columns, where, "parquet")
    if "train" not in parts:
        raise DataError(f"{cfg.path}: no split named train with labels, only {', '.join(found)}")
    return _from_examples(replace(cfg, group=group), parts, order, notes)


def _questions(table: Any, cfg: DatasetConfig, where: str) -> Examples:
    """A row for each option of each question: its texts, the question's number, and the class right or wrong.

    The last column of `cfg.text` holds the options by name, `cfg.label` the name of the right one. Raises DataError.
    """
    rows: list[tuple[int, tuple[Any, ...]]] = []
    columns = [table[column][:] for column in (*cfg.text, cfg.label)]
    for number, (*question, options, answer) in enumerate(zip(*columns, strict=True), 1):
        options = {name: option for name, option in options.items() if option is not None}
        if answer not in options:
            raise DataError(
                f"{where}: row {number}: {cfg.label} must name one of the options {', '.join(options)}, got {answer!r}"
            )
        for name, option in options.items():
            rows.append((number, (*question, option, str(number), "right" if name == answer else "wrong")))
    return collect(rows, [*cfg.text, "row number", cfg.label], where, "parquet")


SOURCES = {"prepared": _read_prepared, "docstrings": _read_docstrings, "csv": _read_csv, "hub": _read_hub}
