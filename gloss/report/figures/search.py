"""The table and figure of a search: its trials, and the score against each hyperparameter."""

from __future__ import annotations

import math
import shlex
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.ticker import MaxNLocator

from gloss.config import TrainerConfig, config_file
from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.reading import shortened
from gloss.records.study import Study
from gloss.report.figure import Drawing, panels
from gloss.report.table import MISSING, Table, number_text
from gloss.report.tables.datasets_and_search import NAMES
from gloss.runtime.terminal import program

LOOK = {"complete": ("o", "#1f6fb4"), "pruned": ("x", "#999999")}


def title(study: Study) -> str:
    words = [dataset_name(study.dataset), model_name(study.model), loss_name(study.loss, study.mode), study.mode]
    return ", ".join(words + ([] if study.variant == "paper" else [f"{study.variant} code"]))


def trials_table(study: Study) -> Table:
    """A line a trial, best first, then the pruned and the failed; numbered from 1, as the search reports them."""
    ranks, best = {"complete": 0, "pruned": 1}, study.best["number"] if study.best else None
    order = sorted(study.trials, key=lambda t: (ranks.get(t["state"], 2), -(t["value"] or 0), t["number"]))
    rows = [
        [
            f"{t['number'] + 1} (best)" if t["number"] == best else t["number"] + 1,
            t["state"] if t["duplicate_of"] is None else f"{t['state']}, as trial {t['duplicate_of'] + 1}",
            *(f"{t['params'][name]:.3g}" if name in t["params"] else MISSING for name in study.space),
            number_text(t["value"], digits=2 if study.mode == "integrated" else 4),
            t["epochs"] or MISSING,
            number_text(t["seconds"], digits=1),
        ]
        for t in order
    ]
    data = [{key: x for key, x in t.items() if key != "params"} | t["params"] for t in order]
    columns = ["Trial", "State", *(NAMES[name] for name in study.space), study.score, "Epochs", "s"]
    amounts = f"{study.train_examples} training texts, at most {study.max_epochs} epochs, seed {study.seed}"
    notes = [f"{amounts}; search={study.search}."]
    notes += [] if study.is_finished else [f"Not finished: {study.num_trials} trials were asked for."]
    notes += [f"Trial {t['number'] + 1} failed: {shortened(t['reason'])}" for t in study.trials if t["reason"]]
    return Table(f"study-{study.name}", f"Search: {title(study)}", columns, rows, data, notes, num_keys=2)


def study_figure(study: Study) -> Drawing | None:
    """History, importance, and the score against each hyperparameter; None before there are two scores."""
    done = [t for t in study.trials if t["state"] in LOOK and t["value"] is not None and t["duplicate_of"] is None]
    if len(done) < 2:
        return None
    trials = pd.DataFrame(
        [{"trial": t["number"] + 1, "state": t["state"], "value": t["value"], **t["params"]} for t in done]
    )
    importance = importances(study) if len(study.space) > 1 else {}
    figure, axes = panels(1, 1 + bool(importance) + len(study.space), width=2.2, height=2.2)
    history, *others = axes[0]
    _points(history, trials, "trial")
    best = trials[trials["state"] == "complete"].set_index("trial")["value"].sort_index().cummax()
    history.step(best.index, best, where="post", color="#333333", linewidth=0.8)
    history.set(xlabel="trial", ylabel=study.score)
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    if importance:  # empty with too few trials
        ax, *others = others
        ax.barh([NAMES[name] for name in importance], list(importance.values()), height=0.5, color=LOOK["complete"][1])
        ax.invert_yaxis()
        ax.set_xlabel("importance")
    for ax, (name, space) in zip(others, study.space.items(), strict=True):
        _points(ax, trials, name)
        ax.set_xlabel(NAMES[name])
        ax.sharey(history)
        low, high, is_log = space if isinstance(space, tuple) else (min(space), max(space), False)
        ax.set_xlim((low / 1.1, high * 1.1) if is_log else (low - 0.05 * (high - low), high + 0.05 * (high - low)))
        if is_log:
            ticks = [low, math.sqrt(low * high), high]
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            ax.minorticks_off()
    data = trials.to_dict("records") + [{"hyperparameter": k, "importance": share} for k, share in importance.items()]
    notes = ["Line: the best so far. Crosses: pruned trials, at their last score."]
    if importance:
        notes.append("Importance: estimated influence of each hyperparameter (fANOVA); unreliable with few trials.")
    return Drawing(f"study-{study.name}", f"Search: {title(study)}", figure, data, notes)


def _points(ax: Any, trials: pd.DataFrame, x: str) -> None:
    for state, (marker, color) in LOOK.items():
        found = trials[trials["state"] == state]
        ax.scatter(found[x], found["value"], marker=marker, color=color, s=16, linewidths=1)


def importances(study: Study) -> dict[str, float]:
    """Hyperparameter -> its share of the score's variance, largest first; empty with too few trials.

    Optuna's fANOVA (Hutter et al. 2014) over the complete trials.
    """
    import optuna  # here: a report without studies does not need it
    from optuna.distributions import CategoricalDistribution, FloatDistribution
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    space: dict[str, optuna.distributions.BaseDistribution] = {
        name: CategoricalDistribution(row) if isinstance(row, list) else FloatDistribution(row[0], row[1], log=row[2])
        for name, row in study.space.items()
    }
    found = [t for t in study.trials if t["state"] == "complete" and t["duplicate_of"] is None]
    if len(found) < 4 or len({t["value"] for t in found}) < 2:
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    copy = optuna.create_study(direction="maximize")
    for trial in found:
        copy.add_trial(optuna.create_trial(params=trial["params"], distributions=space, value=trial["value"]))
    shares = get_param_importances(copy, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}


def search_command(study: Study, outputs: Path) -> str:
    """The command that makes or resumes a search of an outputs folder."""
    from gloss.runtime.overrides import word_of  # here: it loads Hydra, which only studies need

    budget = config_file("search", study.search, is_optional=True).get("budget", {})
    settings = {  # the value, and its default
        "variant": (study.variant, "paper"),
        "search": (study.search, "fair"),
        "dataset.train_limit": (study.train_limit, None),
        "trainer.max_epochs": (study.max_epochs, TrainerConfig.max_epochs),
        "seed": (study.seed, 1),
        "search.trials": (study.num_trials, budget.get(study.loss, budget.get("any"))),
        "paths.outputs": (str(outputs), "outputs"),
    }
    words = {key: getattr(study, key) for key in ("dataset", "model", "mode", "loss")}
    words |= {key: value for key, (value, usual) in settings.items() if value != usual} | study.given
    return shlex.join([*program("tune").split(), *(word_of(key, value) for key, value in words.items())])
