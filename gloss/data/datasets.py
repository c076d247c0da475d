"""Data set name -> texts, labels and splits -> token ids.

The rows of a split stand in the order of a hash of their content, so that splits, samples and batches depend on the
texts and the seed and never on the order of rows in a file; `Split.rows` leads back to the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from gloss.config import DatasetConfig
from gloss.data import docstrings
from gloss.data.checks import examine, swallowed_rows, words
from gloss.data.files import Row, checked, collect, examples_kind, read_examples, read_table, refuse_unread
from gloss.data.splits import SPLIT_SEED, Split, right_class, stratified, whole_groups
from gloss.errors import DataError, RunError
from gloss.records.reading import Record, shortened

MANIFEST = Path(__file__).parent / "manifest.json"
CUT_FRACTION = 0.1  # of the training texts, for a split that a set does not have


@dataclass(frozen=True)
class TextDataset:
    """A data set with its three splits."""

    name: str
    labels: list[str]  # names in one fixed order
    splits: dict[str, Split]  # train, val, test
    fingerprint: str  # hex; of all texts and labels before `train_limit`, whatever the order of rows
    notes: list[str]  # for the user: how texts were split, suspicious texts …
    unlabeled: Split | None = None  # texts without a label, -1, where the configuration names some


def load_dataset(cfg: DatasetConfig, data_dir: str | Path, seed: int) -> TextDataset:
    """Read, check and split a data set.

    data_dir: folder of the prepared sets (`<name>/train.csv.gz` …; ~ is the home folder); seed: draws the sample of
    `cfg.train_limit` training texts. A split that the set does not have is cut from its training texts: 10 % each,
    stratified (or whole groups), with a seed of its own (sst2 and qnli: validation; their test split is GLUE's labelled
    dev split). Raises DataError.
    """
    labels, parts, notes = SOURCES[cfg.source](cfg, Path(data_dir).expanduser())
    if "train" not in parts:
        raise DataError(f"{cfg.path or cfg.name}: no split named train with labels, only {', '.join(parts)}")
    if cfg.unlabeled_path is not None:
        rows, left_out = read_examples(cfg.unlabeled_path, cfg.text, [], cfg.separator, cfg.encoding)
        parts["unlabeled"] = [replace(row, names=("",)) for row in rows]
        notes += [f"unlabeled: {note}" for note in left_out]
    digests = {part: row_digests((*row.texts, *row.names) for row in rows) for part, rows in parts.items()}
    splits = {part: split_of(rows, labels, digests[part]) for part, rows in parts.items()}
    unlabeled = splits.pop("unlabeled", None)
    _check_classes(cfg.path or cfg.name, labels, splits)
    num_rows = len(splits["train"])
    for part in ("test", "val"):
        if part not in splits:
            splits["train"], splits[part] = _cut(splits["train"], part, round(CUT_FRACTION * num_rows), cfg.name)
            notes.append(_cut_note(part, splits, num_rows))
    for part in ("val", "test"):
        if lacking := [x for i, x in enumerate(labels) if i not in splits[part].labels]:
            shown = ", ".join(lacking[:5]) + f" … ({len(lacking)} classes)" * (len(lacking) > 5)
            notes.append(
                f"{part} is without a text of {shown}: its macro-F1 counts such a class only if predicted, as 0"
            )
    if cfg.train_limit is not None:
        splits["train"], rest = _limited(splits["train"], cfg, seed, len(labels), notes)
        if cfg.unlabeled == "rest":
            if not len(rest):
                raise DataError(f"dataset.unlabeled=rest: dataset.train_limit={cfg.train_limit} leaves no text out")
            unlabeled = Split(rest.texts, np.full(len(rest), -1), rest.rows)
    for part in ("val", "test"):
        if splits[part].groups is not None and right_class(splits[part].labels, splits[part].groups) is None:
            needed = "two classes, one of them exactly once in each group: the right option"
            raise DataError(f"{cfg.path}: dataset.group needs {needed}; {part} has another, of classes {labels[:5]}")
    if cfg.unlabeled_path is not None and unlabeled is not None:
        held_out = {words(texts) for part in ("val", "test") for texts in splits[part].texts}
        if num := sum(words(texts) in held_out for texts in unlabeled.texts):
            notes.append(f"unlabeled: validation or test texts among them: {num:,} of {len(unlabeled):,}")
    prints = json.dumps({part: fingerprint(digests[part]) for part in sorted(digests)})
    whole = hashlib.sha256(prints.encode()).hexdigest()[:32]
    ordered = {part: splits[part] for part in ("train", "val", "test")}
    return TextDataset(cfg.name, labels, ordered, whole, notes, unlabeled)


# -- splits ------------------------------------------------------------------------------------------------------------
def split_of(rows: Sequence[Row], labels: Sequence[str], digests: Sequence[bytes]) -> Split:
    """The split of some rows, in the order of their hashes; a name that is none of `labels` has the label -1."""
    numbers = {label: i for i, label in enumerate(labels)}
    groups = np.array([row.names[0] for row in rows]) if len(rows[0].names) == 2 else None
    known = np.array([numbers.get(row.names[-1], -1) for row in rows], dtype=np.int64)
    whole = Split([row.texts for row in rows], known, np.array([row.number for row in rows]), groups)
    return whole.take(np.array(sorted(range(len(rows)), key=digests.__getitem__), dtype=np.int64))


def row_digests(rows: Iterable[Sequence[str]]) -> list[bytes]:
    """sha256 of each row: its strings, the label's name last, each after its length: ("a", "b") is not ("ab",)."""
    joined = ("".join(f"{len(cell)}:{cell}" for cell in row) for row in rows)
    return [hashlib.sha256(row.encode("utf-8", "surrogatepass")).digest() for row in joined]


def fingerprint(digests: Iterable[bytes]) -> str:
    """Hash of a multiset of rows: the sum of their hashes modulo 2**128, in hex.

    A sum does not depend on the order and, unlike an exclusive or, does not lose a row that stands there twice.
    """
    return f"{sum(int.from_bytes(digest[:16], 'big') for digest in digests) % 2**128:032x}"


def _cut(train: Split, part: str, size: int, name: str) -> tuple[Split, Split]:
    """The remaining training texts, and about `size` of them cut for `part`."""
    if train.groups is not None:
        chosen = whole_groups(train.groups, max(size, 1))
    else:  # every class is tested; validation may lack a rare one, as it does in r52
        chosen = stratified(train.labels, max(size, 1), SPLIT_SEED, least=int(part == "test"), leave=1)
    if not len(chosen):
        advice = f"add texts, or give a file of your own (dataset.{part}_path)"
        raise DataError(f"{name}: {len(train)} training texts are too few to cut {part} from them: {advice}")
    return train.take(np.setdiff1d(np.arange(len(train)), chosen)), train.take(chosen)


def _cut_note(part: str, splits: dict[str, Split], num_rows: int) -> str:
    cut = splits[part]
    drawn = "stratified" if cut.groups is None else "whole groups"
    note = f"{part} is {len(cut)} of the {num_rows} training texts ({drawn}, the same whatever the seed)"
    train = set(map(words, splits["train"].texts))
    if num_same := sum(words(text) in train for text in cut.texts):
        note += f", {num_same} of them with the same words as a training text"
    return note


def _limited(train: Split, cfg: DatasetConfig, seed: int, num_classes: int, notes: list[str]) -> tuple[Split, Split]:
    """The sample of `cfg.train_limit` training texts, and the rest."""
    limit = f"dataset.train_limit={cfg.train_limit}"
    if cfg.train_limit < num_classes:
        raise DataError(f"{limit} is not allowed: {cfg.name} has {num_classes} classes and each needs a text")
    if cfg.train_limit > len(train):
        notes.append(f"{limit} has no effect: there are {len(train)} training texts")
        return train, train.take(np.arange(0))
    chosen = stratified(train.labels, cfg.train_limit, seed, least=1)
    return train.take(chosen), train.take(np.setdiff1d(np.arange(len(train)), chosen))


def _check_classes(name: str, labels: Sequence[str], splits: dict[str, Split]) -> None:
    """Refuse sets that cannot be trained or tested: one class, one without training texts, one too small to split."""
    if len(labels) < 2:
        raise DataError(f"{name} has one class, {labels[0]!r}: a classifier needs at least two")
    counts = np.bincount(splits["train"].labels, minlength=len(labels))
    for part, split in splits.items():
        untrained = np.flatnonzero(counts[split.labels] == 0)
        if len(untrained):
            first = untrained[np.argmin(split.rows[untrained])]
            where = f"the label {labels[split.labels[first]]!r} ({part}, row {split.rows[first]})"
            raise DataError(f"{name}: {where} does not occur in train: add training texts of it, or take its rows out")
    if "test" not in splits and counts.min() < 2:
        label = int(counts.argmin())
        (row,) = splits["train"].rows[splits["train"].labels == label]
        advice = "add texts of it, take it out, or give test texts of your own (dataset.test_path)"
        raise DataError(
            f"{name}: {labels[label]!r} has one text (row {row}), but train and test need one each: {advice}"
        )


# -- sources: labels in their order, rows (the label's name last) of each split, notes ---------------------------------
Source = tuple[list[str], dict[str, list[Row]], list[str]]


def read_manifest() -> dict[str, Any]:
    """data/manifest.json: the content that the prepared sets must have, and their sources."""
    return json.loads(MANIFEST.read_text(encoding="utf-8"))


def _read_prepared(cfg: DatasetConfig, data_dir: Path) -> Source:
    """<data_dir>/<name>/<part>.csv.gz, checked against the manifest every time: the hashes are needed anyway."""
    sets = read_manifest()["sets"]
    if cfg.name not in sets:
        raise DataError(f"dataset.name={cfg.name} is not a prepared set: expected one of {', '.join(sets)}")
    entry, remedy = sets[cfg.name], f"`make data DATASETS={cfg.name}`"
    if [*cfg.text, cfg.label] != (columns := [*entry["columns"].values()]):
        asked = f"dataset.text={cfg.text} dataset.label={cfg.label} is not allowed"
        raise DataError(f"{asked}: {cfg.name} is read by its columns {', '.join(columns)}")
    parts = {}
    for part in entry["splits"]:
        path = data_dir / cfg.name / f"{part}.csv.gz"
        if not path.exists():
            advice = "set GLOSS_DATA_DIR or paths.data to a folder of prepared sets"
            raise DataError(f"{path}: no such file. Run {remedy}, or {advice}")
        rows = read_table(path, columns)
        if reason := difference(rows, entry, part):
            raise DataError(f"{path}: {reason}. Run {remedy} to make it again")
        known_as = "test" if part == "dev" else part  # GLUE's own test labels are not public
        numbered = enumerate(rows, 2)
        parts[known_as] = [Row(number, tuple(row[:-1]), (entry["labels"][row[-1]],)) for number, row in numbered]
    return list(entry["labels"].values()), parts, []


def difference(rows: Sequence[Sequence[str]], entry: dict[str, Any], part: str) -> str | None:
    """The difference of a prepared file's rows (text columns, then label) from the manifest's entry, or None."""
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
    return fingerprint(row_digests([*row[:-1], entry["labels"][row[-1]]] for row in rows))


def _read_docstrings(cfg: DatasetConfig, data_dir: Path) -> Source:
    try:
        found, versions = docstrings.collect()
    except ModuleNotFoundError as error:  # PackageNotFoundError is one
        raise DataError(f"dataset=docstrings needs {error.name}: `pip install -r requirements.txt`") from None
    parts = {part: [Row(i, (text,), (name,)) for i, (text, name) in enumerate(rows, 2)] for part, rows in found.items()}
    pinned, notes = read_manifest()["docstrings"], []
    if {part: fingerprint(row_digests(rows)) for part, rows in found.items()} != pinned["fingerprints"]:
        other = [f"{k} {versions[k]} for {pin}" for k, pin in pinned["versions"].items() if versions[k] != pin]
        notes.append(f"these docstrings differ from the pinned versions' (installed: {', '.join(other) or 'the same'})")
    return list(docstrings.LIBRARIES), parts, notes


def _names(cfg: DatasetConfig) -> list[str]:
    """The columns of the group, where there is one, and of the label."""
    return [cfg.label] if cfg.group is None else [cfg.group, cfg.label]


def _read_csv(cfg: DatasetConfig, data_dir: Path) -> Source:
    paths = {"train": cfg.path, "val": cfg.val_path, "test": cfg.test_path}
    given = {part: path for part, path in paths.items() if path is not None or part == "train"}
    kinds = {examples_kind(path) for path in (*given.values(), cfg.unlabeled_path) if path is not None}
    refuse_unread(kinds, cfg.separator, cfg.encoding)
    found = {p: read_examples(path, cfg.text, _names(cfg), cfg.separator, cfg.encoding) for p, path in given.items()}
    if kinds == {"folder"} and (cfg.text, cfg.label) != (DatasetConfig().text, DatasetConfig().label):
        raise DataError(
            "dataset.text and dataset.label have no effect on folders, which have no columns: leave them out"
        )
    labels = {row.names[-1] for rows, _ in found.values() for row in rows}
    csv = [(path, found[part][0]) for part, path in given.items() if examples_kind(path) == "csv"]
    notes = [note for path, rows in csv for note in swallowed_rows(rows, labels, path)]
    return _own(cfg, found, notes, [])


def _own(
    cfg: DatasetConfig, found: dict[str, tuple[list[Row], list[str]]], notes: Sequence[str], order: Sequence[str]
) -> Source:
    """A user's own examples, checked. Raises DataError.

    found: rows, and notes on those left out, of each split; order: of the classes, where it is known.
    """
    parts = {part: rows for part, (rows, _) in found.items()}
    left_out = [f"{part}: {note}" if len(found) > 1 else note for part in found for note in found[part][1]]
    try:
        notes = [*notes, *left_out, *examine(parts)]
    except DataError as error:
        raise DataError(f"{cfg.path}: {error}") from None
    labels = {row.names[-1] for rows in parts.values() for row in rows}
    if order:
        return [label for label in order if label in labels], parts, notes
    try:
        return sorted(labels, key=lambda label: (int(label), label)), parts, notes
    except ValueError:  # not all are whole numbers
        return sorted(labels), parts, notes


def _read_hub(cfg: DatasetConfig, data_dir: Path) -> Source:
    """A Hugging Face data set: `path` is its name, or name:subset, or a folder of files that `datasets` reads.

    Where the last column of `text` holds options by name, each row is a question, and `label` names the right option.
    """
    import datasets  # slow to import, and needed here only

    name, _, subset = cfg.path.partition(":")
    columns = [*cfg.text, *_names(cfg)]
    try:
        builder = datasets.load_dataset_builder(name, subset or None, revision=cfg.revision)
        is_csv = hasattr(builder.config, "converters") and builder.info.features is None
        # As strings: pandas would turn 007 into 7, and the text NA into a missing value.
        as_text = {"converters": dict.fromkeys(columns, str), "keep_default_na": False} if is_csv else {}
        found = datasets.load_dataset(name, subset or None, revision=cfg.revision, **as_text)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"dataset.path={cfg.path} (revision {cfg.revision}) cannot be read: {reason}") from None
    parts, notes, order = {}, [], []
    for part, table in found.items():
        where, known_as = f"{cfg.path}, {part}", {"train": "train", "validation": "val", "test": "test"}.get(part)
        if missing := [column for column in columns if column not in table.column_names]:
            shown = ", ".join(table.column_names)
            raise DataError(f"{where}: no column {missing[0]!r} among {shown}: set dataset.text and dataset.label")
        values, kind = table[cfg.label][:], table.features[cfg.label]
        if isinstance(kind, datasets.ClassLabel):
            order, values = kind.names, [None if v in (None, -1) else kind.names[v] for v in values]
        if known_as is None or all(value in (None, -1, "-1") for value in values):
            notes.append(f"{part} is left aside: {'no labels' if known_as else 'not train, validation or test'}")
            continue
        cells = enumerate(zip(*(table[column][:] for column in columns[:-1]), values, strict=True), 1)
        if isinstance(next(filter(None, table[cfg.text[-1]]), None), dict):  # the first that is not missing
            if cfg.group is not None:
                raise DataError(f"dataset.group has no effect where {cfg.text[-1]} holds all options: leave it out")
            order, rows = ["wrong", "right"], _options(cells, cfg, where)
        else:
            rows = (checked(number, row, cfg.text, _names(cfg)) for number, row in cells)
        parts[known_as] = collect(rows, where)
    if not parts:
        raise DataError(f"{cfg.path}: no split train, validation or test with labels, only {', '.join(found)}")
    return _own(cfg, parts, notes, order)


def _options(cells: Iterable[tuple[int, Sequence[Any]]], cfg: DatasetConfig, where: str) -> Iterable[Row]:
    """A row for each option of each question: its texts, the question's number, and the class right or wrong."""
    for number, (*question, options, answer) in cells:
        options = {name: option for name, option in (options or {}).items() if option is not None}
        if answer not in options:
            names = ", ".join(options) or "(none)"
            raise DataError(f"{where}: row {number}: {cfg.label} must name one of the options {names}, got {answer!r}")
        for name, option in options.items():
            labels = str(number), "right" if name == answer else "wrong"
            yield checked(number, [*question, option, *labels], cfg.text, ["row number", cfg.label])


SOURCES = {"prepared": _read_prepared, "docstrings": _read_docstrings, "csv": _read_csv, "hub": _read_hub}


# -- the texts of a finished run, read again from the source in its configuration --------------------------------------
def dataset_config(record: Record) -> DatasetConfig:
    """The data set configuration of a run. Raises RunError where a record, which may come from anywhere, has none."""
    try:
        return TypeAdapter(DatasetConfig).validate_python(record.result["config"].get("dataset"))
    except ValidationError as error:
        raise RunError(f"{record.folder}: its configuration names no data set: {shortened(error)}") from None


def dataset_of(record: Record, data_dir: str | Path | None = None) -> TextDataset:
    """The data set of a run, in the order of its predictions.

    data_dir: folder of the prepared sets, or of files that have moved since; None: the run's own. Raises DataError
    where the data set cannot be read, RunError where its texts differ from the run's.
    """
    cfg = dataset_config(record)
    try:
        folder = Path(data_dir or record.result["config"]["paths"]["data"]).expanduser()
        _find_moved(cfg, folder)
        dataset = load_dataset(cfg, folder, record.identity.seed)
    except (LookupError, TypeError, AttributeError) as error:
        raise RunError(f"{record.folder}: its configuration names no data set ({error!r})") from None
    if dataset.fingerprint != record.result.get("fingerprint") or dataset.labels != record.result["labels"]:
        raise RunError(f"the texts of {dataset.name} have changed since the run: it was trained on others")
    return dataset


def _find_moved(cfg: DatasetConfig, folder: Path) -> None:
    """Take a user's own files that are no longer in their place from `folder`, if it has files of their names."""
    for key in ("unlabeled_path", *(("path", "val_path", "test_path") if cfg.source == "csv" else ())):
        if (name := getattr(cfg, key)) is None or (path := Path(name).expanduser()).exists():
            continue
        if not (moved := folder / path.name).exists():
            raise DataError(f"{path} is not there: if it has moved, give its folder, paths.data=… (load_run: data=…)")
        setattr(cfg, key, str(moved))
