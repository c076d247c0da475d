"""How far an experiment is, what is left to do, and what that will cost: `make plan-table2`, `make status`.

States and results come from the run folders. Costs are arithmetic over speed: the operations of an epoch follow from
the encoder's shape and from how long the texts are (lengths.csv), and the speed from runs on the same device, the
closest ones first, or from a device's data sheet where nothing was measured. Neither texts nor weights are needed.
"""

from __future__ import annotations

import contextlib
import csv
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import yaml

from gloss.config import CONFIG_DIR, STANDALONE, Config, ConfigError, forward_passes
from gloss.experiments import SEARCHED_FOR, Cell, own_fingerprint, search_cell, search_overrides, with_texts
from gloss.report import paper
from gloss.report.cells import gather, mean_std, number
from gloss.report.names import dataset_name, loss_name, model_name
from gloss.report.table import MISSING
from gloss.report.tables import judge
from gloss.runs import Record, RunError, digits, failure, files_under, is_done, is_running, read_records
from gloss.studies import read_study
from gloss.terminal import printable
from gloss.tuned import SEARCHED, misfit, read_tuned, tuned_file

ENCODERS = {  # alias -> layers, width, all parameters
    "bert": (12, 768, 109_482_240),
    "roberta_large": (24, 1024, 355_359_744),
    "distilbert": (6, 768, 66_362_880),
    "minilm": (6, 384, 22_713_216),
    "tiny": (2, 64, 2_053_440),
}
BF16, FLOAT32 = "bf16", "float32"
DEVICES = {  # name -> precision -> FLOP/s of its data sheet (without sparsity and TF32), share of it that we expect
    "a100": {BF16: (312e12, 0.25), FLOAT32: (19.5e12, 0.6)},
    "h100": {BF16: (989e12, 0.2), FLOAT32: (67e12, 0.5)},
    "h200": {BF16: (989e12, 0.2), FLOAT32: (67e12, 0.5)},
    "cpu": {BF16: (60e9, 1.0), FLOAT32: (60e9, 1.0)},  # two cores in float32, as measured with minilm on mr
}
LAUNCH_SECONDS = 3e-3  # a layer and step on a GPU take at least this, however short the texts: launching kernels
START_SECONDS = 15.0  # of a run: loading weights and texts, and σ of G-Loss-SQRT
EPOCHS_TO_BEST = 15  # assumed where neither runs nor the paper tell; patience comes on top


# ---------------------------------------------------------------------------------------------------------- how far


DONE, RUNNING, FAILED, INTERRUPTED, MISSING_RUN = "done", "running", "failed", "interrupted", "to do"


def state(folder: Path | None) -> str:
    """Of a run: done, running, failed (the last attempt), interrupted (a checkpoint waits), or to do."""
    if folder is None or not folder.is_dir():
        return MISSING_RUN
    if is_done(folder):
        return DONE
    if is_running(folder):
        return RUNNING
    if (folder / "error.json").is_file():
        return FAILED
    return INTERRUPTED if (folder / "checkpoint").is_dir() else MISSING_RUN


# --------------------------------------------------------------------------------------------------------- how long


@dataclass(frozen=True)
class Texts:
    """How many texts a split has, of how many classes, and how long they are in tokens."""

    rows: int
    classes: int
    mean: float
    mean_square: float


@cache
def lengths() -> dict[tuple[str, str], Texts]:
    """lengths.csv, which scripts/lengths.py measures: (data set, split) -> Texts, cut at 128 tokens."""
    with (Path(__file__).parent / "lengths.csv").open(encoding="utf-8", newline="") as file:
        return {
            (row["dataset"], row["split"]): Texts(
                int(row["rows"]), int(row["classes"]), float(row["mean_tokens"]), float(row["mean_square"])
            )
            for row in csv.DictReader(file)
        }


def epoch_flops(layers: float, width: int, passes: int, train: Texts, val: Texts) -> float:
    """Operations of an epoch: training, and the validation after it.

    A layer of width D takes 24 D² operations for a token forward, and 4 T D for its attention over T tokens; a step
    takes three times that. Of the last layer only the first token's output is needed, a sixth of its work. Tokens are
    real ones, without padding.
    """

    def forward(texts: Texts) -> float:
        return texts.rows * (layers - 5 / 6) * (24 * width**2 * texts.mean + 4 * width * texts.mean_square)

    return 3 * passes * forward(train) + forward(val)


@dataclass
class Speeds:
    """What finished runs tell: how fast a device is, how long a user's own texts are, how many epochs a run takes."""

    records: Sequence[Record]
    device: str  # a key of DEVICES, or a GPU's name as the records have it
    cores: int = 2
    found: dict[tuple, list[float]] = field(default_factory=dict)  # operations a second: of a precision, and a model, …

    def __post_init__(self) -> None:
        self.auto = FLOAT32 if self.device == "cpu" else BF16  # what trainer.precision=auto becomes there
        for record in self.records:
            name, is_cpu = str(record.result.get("device_name")), record.result["device"] == "cpu"
            same = is_cpu if self.device == "cpu" else not is_cpu and is_named(self.device, name)
            precision = str(record.result.get("precision"))
            if same and ((record.result["config"].get("trainer") or {}).get("precision") or "auto") == "auto":
                self.auto = precision
            if same and not record.result.get("shared_device") and (speed := _speed(record)):
                x = record.identity
                for key in ((), (x.model,), (x.model, x.dataset)):
                    self.found.setdefault((precision, *key), []).append(speed)

    @property
    def data_sheet(self) -> str | None:
        """The key of DEVICES; None for a device that is not there."""
        return next((name for name in DEVICES if is_named(name, self.device)), None)

    def epoch_seconds(self, cell: Cell) -> tuple[float | None, str]:
        """Seconds of an epoch, and where the speed is from; None where encoder, texts or device are not known."""
        cfg = cell.config
        train, val = self._texts(cell, "train"), self._texts(cell, "val")
        if cfg.model.alias not in ENCODERS or train is None or val is None:
            return None, "unknown"
        layers, width, _ = ENCODERS[cfg.model.alias]
        layers, precision = cfg.model.num_layers or layers, self.precision(cell)
        passes = forward_passes(cfg.mode, cfg.loss.name, cfg.variant.forward_passes)
        rows = min(train.rows, cfg.dataset.train_limit or train.rows)
        steps = -(-rows // cfg.trainer.batch_size)
        if cfg.dataset.unlabeled or cfg.dataset.unlabeled_path:  # they are encoded too, in every batch
            rows += steps * (cfg.trainer.unlabeled_per_batch or cfg.trainer.batch_size)
        train = replace(train, rows=rows)
        flops = epoch_flops(layers, width, passes, train, val)
        closest = {(cell.model, cell.dataset): "same set", (cell.model,): "same model", (): "other model"}
        for key, source in closest.items():
            if (precision, *key) in self.found:
                return flops / statistics.median(self.found[precision, *key]), f"measured ({source})"
        if self.data_sheet is None:
            return None, "unknown"
        peak, share = DEVICES[self.data_sheet][precision]
        if self.data_sheet == "cpu":
            return flops / (peak * self.cores / 2), "data sheet"
        return max(flops / (peak * share), steps * layers * passes * LAUNCH_SECONDS), "data sheet"

    def precision(self, cell: Cell) -> str:
        """Of the encoder in this cell's runs on the device."""
        wanted = cell.config.trainer.precision
        return self.auto if wanted == "auto" else wanted

    def run_hours(self, cell: Cell) -> float | None:
        """Hours of one run; None where nothing is known."""
        return _hours(self.epochs(cell)[0], self.epoch_seconds(cell)[0])

    def _texts(self, cell: Cell, part: str) -> Texts | None:
        """From lengths.csv; of a user's own set, from a run on it."""
        own = (_texts_of(r, part) for r in self.records if r.identity.dataset == cell.dataset)
        return lengths().get((cell.dataset, part)) or next(own, None)

    def epochs(self, cell: Cell) -> tuple[float, str]:
        """How many epochs a run will take, and where from: ours, paper, assumed, or fixed by the settings."""
        trainer = cell.config.trainer
        if trainer.patience is None:
            return trainer.max_epochs, "fixed"
        for keys in (("model", "digits"), ("model",), ()):
            found = [r.result["epochs"] for r in self.records if _is_alike(r, cell, ("dataset", "mode", "loss", *keys))]
            if found:
                return statistics.mean(found), "ours"
        if cell.mode == STANDALONE and trainer.patience == 10:
            loss = "gloss_o" if cell.loss == "gloss_sqrt" else cell.loss
            if (epochs := paper.published("table3", cell.dataset, "bert", loss, "epochs")) is not None:
                return min(epochs, trainer.max_epochs), "paper"
        return min(EPOCHS_TO_BEST + trainer.patience, trainer.max_epochs), "assumed"


def is_named(short: str, name: str) -> bool:
    """Whether `short` is a word of a device's name: an A100 is not an RTX A1000."""
    return re.search(rf"(?<![a-z0-9]){re.escape(short.lower())}(?![a-z0-9])", name.lower()) is not None


def _hours(epochs: float, epoch_seconds: float | None) -> float | None:
    return None if epoch_seconds is None else (epochs * epoch_seconds + START_SECONDS) / 3600


def _is_alike(record: Record, cell: Cell, keys: Sequence[str]) -> bool:
    """Whether a run says something about a cell's epochs: the same of `keys`, amount of data and stopping rule."""
    config, trainer = record.result["config"], cell.config.trainer
    same = all(getattr(record.identity, key) == getattr(cell, key) for key in keys)
    rule = ("patience", "max_epochs", "batch_size")
    same = same and all((config.get("trainer") or {}).get(key) == getattr(trainer, key) for key in rule)
    return same and (config.get("dataset") or {}).get("train_limit") == cell.config.dataset.train_limit


def _texts_of(record: Record, part: str) -> Texts | None:
    """A record keeps only how many tokens the training texts have together."""
    rows, all_rows = (number(record.result, "num_rows", key) for key in (part, "train"))
    tokens = number(record.result, "tokens_per_epoch")
    if not (rows and all_rows and tokens):
        return None
    mean = tokens / all_rows
    return Texts(int(rows), len(record.result["labels"]), mean, mean**2)


def _speed(record: Record) -> float | None:
    """Operations a second that a run reached, validation included; None where it cannot be told."""
    result = record.result
    train, val = _texts_of(record, "train"), _texts_of(record, "val")
    seconds = sum(number(result, "seconds", key) or 0.0 for key in ("training", "evaluation"))
    if not (train and val and seconds and record.identity.model in ENCODERS):
        return None
    layers, width, _ = ENCODERS[record.identity.model]
    layers = number(result, "config", "model", "num_layers") or layers
    x, wanted = record.identity, int(number(result, "config", "variant", "forward_passes") or 1)
    passes = forward_passes(x.mode, x.loss, wanted)
    return result["epochs"] * epoch_flops(layers, width, passes, train, val) / seconds


# ----------------------------------------------------------------------------------------------------------- the plan


@dataclass(frozen=True)
class Line:
    """A cell in a plan."""

    cell: Cell
    states: Mapping[int, str]  # by seed
    epochs: float
    epochs_from: str
    epoch_seconds: float | None
    speed_from: str
    published: float | None
    ours: str
    verdict: str

    @property
    def num_left(self) -> int:
        return sum(s != DONE for s in self.states.values())

    @property
    def run_hours(self) -> float | None:
        return _hours(self.epochs, self.epoch_seconds)


@dataclass(frozen=True)
class Plan:
    """The cells of an experiment, the searches before them, and what both will take."""

    lines: Sequence[Line]
    speeds: Speeds
    searches: Mapping[Path, tuple[Cell, int]]  # overlay to be written -> what its search trains, trials left

    def runs_to_do(self) -> dict[tuple, Line]:
        """Each run once, also where several experiments share it."""
        found = {}
        for line in self.lines:
            c = line.cell
            level = c.digits or digits(c.config, c.fingerprint or own_fingerprint(c.config))
            for seed in (seed for seed, s in line.states.items() if s != DONE):
                found[c.dataset, c.model, c.mode, c.loss, level, seed] = line
        return found

    def hours(self) -> tuple[float, float, int]:
        """Hours of the runs, hours of the searches, and how many runs and trials have no estimate."""
        runs = [line.run_hours for line in self.runs_to_do().values()]
        trials = [self.speeds.run_hours(cell) for cell, num_trials in self.searches.values() for _ in range(num_trials)]
        unknown = sum(hours is None for hours in (*runs, *trials))
        return sum(hours or 0.0 for hours in runs), sum(hours or 0.0 for hours in trials), unknown

    def disk(self) -> tuple[float, float]:
        """Bytes: of the records to come, and of a run while it trains (a checkpoint: weights, Adam's two, the best)."""
        kept, running = 0.0, 0.0
        for line in self.runs_to_do().values():
            cfg = line.cell.config
            splits = [lengths().get((line.cell.dataset, part)) for part in ("val", "test")]
            _, width, parameters = ENCODERS.get(line.cell.model, (0, 0, 0))
            embedding = 2 * width if cfg.trainer.save_embeddings else 0
            kept += 20e3 + 500 * line.epochs + sum(s.rows * (4 * s.classes + 8 + embedding) for s in splits if s)
            kept += 4 * parameters if cfg.trainer.save_model is not False else 0
            running = max(running, 16.0 * parameters)
        return kept, running


def searches_left(
    cells: Sequence[Cell], overrides: Sequence[str], search: Sequence[str]
) -> dict[Path, tuple[Cell, int]]:
    """Searches that cells lack: overlay that each writes -> (what it trains, trials left).

    A cell has its search where the overlay of the same texts, encoder and amounts of data (those of `search_cell`) is
    from the wanted search with at least the wanted trials. overrides: of the cells, as on the command line; what they
    set is not searched. search: `search=authors`, `search.trials=12` (0: no search). Raises ConfigError for an unknown
    search.
    """
    given = {key: value for key, _, value in (o.partition("=") for o in (*overrides, *search))}
    path = CONFIG_DIR / "search" / f"{given.get('search', 'fair')}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"search={path.stem} is not allowed: expected one of {known}")
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    one_of_each: dict[tuple, Cell] = {}  # composing takes time
    for cell in (cell for cell in cells if cell.config.experiment.search):
        chosen = tuple(cell.choices.get(key) for key in SEARCHED_FOR)
        one_of_each.setdefault((chosen, search_overrides(cell.choices, overrides)), cell)
    found = {}
    for cell in one_of_each.values():
        budget = int(given.get("search.trials", settings["budget"].get(cell.loss, settings["budget"].get("any", 0))))
        space = settings["space"].get(cell.mode, {}).get(cell.loss, {})
        is_open = any(SEARCHED[name] not in given for name, row in space.items() if isinstance(row, dict))
        if is_open and budget:
            wanted = search_cell(cell, overrides)
            if not _is_searched(wanted.config, path.stem, budget):
                left = max(0, budget - _trials_done(wanted, path.stem))
                found.setdefault(tuned_file(wanted.config), (wanted, left))
    return found


def _is_searched(cfg: Config, search: str, budget: int) -> bool:
    overlay = tuned_file(cfg)
    if not overlay.is_file():
        return False
    source = read_tuned(overlay)[1]
    trials = source.get("trials")
    return source.get("search") == search and isinstance(trials, int) and trials >= budget and not misfit(cfg, source)


def make_plan(
    cells: Sequence[Cell],
    device: str,
    cores: int,
    overrides: Sequence[str] = (),
    search: Sequence[str] = ("search.trials=0",),
) -> Plan:
    """The plan of the cells of one or more experiments, at least one cell; they share their `paths.outputs`.

    device: a key of DEVICES, or a GPU's name as the records have it; overrides, search: see `searches_left`. Raises
    DataError where neither the disk nor a record knows a user's own texts.
    """
    records, _ = read_records(cells[0].config.paths.outputs)
    cells = with_texts(cells, records)
    speeds = Speeds(records, device, cores)
    groups, _ = gather(cells, records)
    lines = []
    for cell, group in zip(cells, groups, strict=True):
        scores = list(group.test("accuracy").values())
        line = Line(
            cell,
            {seed: state(cell.folder(seed)) for seed in cell.seeds},
            *speeds.epochs(cell),
            *speeds.epoch_seconds(cell),
            paper.published(cell.experiment, cell.dataset, cell.model, cell.loss, "accuracy", cell.mode),
            f"{mean_std(scores)} ({len(scores)})" if scores else MISSING,
            judge(cell.experiment, group, "accuracy"),
        )
        lines.append(line)
    return Plan(lines, speeds, searches_left(cells, overrides, search))


def _trials_done(cell: Cell, search: str) -> int:
    """Finished trials of the cell's study, as far as it has come."""
    c, done = cell.config, [0]
    pattern = f"{cell.dataset}-{cell.model}-{cell.mode}-{cell.loss}-{cell.variant}-{search}-*/study.json"
    for path in files_under(c.paths.outputs, f"studies/{pattern}"):
        with contextlib.suppress(RunError):
            study = read_study(path.parent)
            if (study.train_limit, study.max_epochs) == (c.dataset.train_limit, c.trainer.max_epochs):
                done.append(sum(trial["state"] in ("complete", "pruned", "fail") for trial in study.trials))
    return max(done)


def show(plan: Plan) -> str:
    """The plan as text: a line a cell, then the sums and what they rest on."""
    heads = ["data set", "model", "loss", "", "runs", "epochs", "s/epoch", "hours left", "paper", "ours", "verdict"]
    rows = [_row(line) for line in plan.lines]
    columns = [i for i in range(len(heads)) if any(row[i] not in ("", MISSING) for row in rows) or i < 3]
    table = [[row[i] for i in columns] for row in (heads, *rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    text = ["  ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([*text, "", *_sums(plan)] if plan.lines else _sums(plan))


def _row(line: Line) -> list[str]:
    c = line.cell
    counts = Counter(line.states.values())
    states = ", ".join(f"{counts[s]} {s}" for s in (DONE, RUNNING, FAILED, INTERRUPTED) if counts[s])
    known = line.run_hours is not None
    return [
        dataset_name(c.dataset),
        model_name(c.model),
        loss_name(c.loss, c.mode),
        " ".join(f"{key.rpartition('.')[2]}={value}" for key, value in c.point.items()),
        f"{states} of {len(c.seeds)}" if states else f"0 of {len(c.seeds)}",
        f"{line.epochs:.0f} {line.epochs_from}" if line.num_left else "",
        f"{line.epoch_seconds:.3g}" if known and line.num_left else "",
        f"{line.run_hours * line.num_left:.2f}" if known and line.num_left else "",
        MISSING if line.published is None else f"{line.published:.2f}",
        line.ours,
        line.verdict,
    ]


def _sums(plan: Plan) -> list[str]:
    runs, searches, unknown = plan.hours()
    states = Counter(s for line in plan.lines for s in line.states.values())
    total = sum(states.values())
    counted = ", ".join(f"{n} {name}" for name, n in states.items())
    left = f"{len(plan.runs_to_do())} different ones left, {runs:.1f} hours."
    text = [f"Runs: {total} ({counted}); {left}" if plan.lines else "Runs: none of its own."]
    if plan.searches:
        trials = sum(num_trials for _, num_trials in plan.searches.values())
        first = "Before them searches" if plan.lines else "Searches"
        text.append(
            f"{first} for {len(plan.searches)} cells, {trials} trials: at most {searches:.1f} hours, with each trial "
            "counted as a whole run (pruning stops the hopeless ones early)."
        )
    if plan.runs_to_do():
        kept, running = plan.disk()
        text.append(f"In all {runs + searches:.1f} hours, one job at a time.")
        text.append(f"Disk: {kept / 1e6:.0f} MB of records, and {running / 1e9:.1f} GB a job for its checkpoint.")
        text += _basis(plan)
    if unknown:
        text.append(f"{unknown} runs or trials are not counted: nothing is known about their encoder, texts or device.")
    return text


def _basis(plan: Plan) -> list[str]:
    sources = Counter(line.speed_from for line in plan.lines if line.num_left)
    epochs = Counter(line.epochs_from for line in plan.lines if line.num_left)
    text = [f"Speed on {plan.speeds.device}: " + ", ".join(f"{n} cells {name}" for name, n in sources.items()) + "."]
    if plan.speeds.data_sheet is None and "unknown" in sources:
        others = ", ".join(DEVICES)
        text[0] += f" It is none of {others}, and no run was measured on it: DEVICE=… tells what one of these takes."
    if "data sheet" in sources:
        name = plan.speeds.data_sheet
        left = [line.cell for line in plan.lines if line.num_left and line.speed_from == "data sheet"]
        used = {p: DEVICES[name][p] for p in dict.fromkeys(map(plan.speeds.precision, left))}
        if name == "cpu":
            peak = DEVICES[name][FLOAT32][0]
            text[0] += f" No run was measured here: {peak * plan.speeds.cores / 2 / 1e9:.0f} GFLOP/s is assumed."
        else:
            assumed = [f"{100 * share:.0f} % of {peak / 1e12:.3g} TFLOP/s ({p})" for p, (peak, share) in used.items()]
            text[0] += (
                f" Not measured: {' and '.join(assumed)} is assumed, and at least {1000 * LAUNCH_SECONDS:.0f} ms for "
                "a layer in a step."
            )
    words = {
        "ours": "means of finished runs",
        "paper": "the paper's Table 3",
        "assumed": f"not known, best after {EPOCHS_TO_BEST} assumed, and patience",
        "fixed": "no early stopping",
    }
    text.append("Epochs: " + "; ".join(f"{name} = {words[name]}" for name in epochs) + ".")
    return text


def failures(lines: Iterable[Line]) -> list[str]:
    """A line for each failed run: its folder, and why."""
    folders = [line.cell.folder(seed) for line in lines for seed, s in line.states.items() if s == FAILED]
    return [printable(f"{folder}: {failure(folder).partition(chr(10))[0]}") for folder in folders]
