"""The table and figure of a search: its trials, and the score against each hyperparameter."""

from __future__ import annotations

import math
import shlex

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
    """History, and the score against each hyperparameter; None before there are two scores."""
    done = [t for t in study.trials if t["state"] in LOOK and t["value"] is not None and t["duplicate_of"] is None]
    if len(done) < 2:
        return None
    trials = pd.DataFrame(
        [{"trial": t["number"] + 1, "state": t["state"], "value": t["value"], **t["params"]} for t in done]
    )
    figure, axes = panels(1, 1 + len(study.space), width=2.2, height=2.2, sharey=True)
    for ax, x in zip(axes[0], ("trial", *study.space), strict=True):
        for state, (marker, color) in LOOK.items():
            found = trials[trials["state"] == state]
            ax.scatter(found[x], found["value"], marker=marker, color=color, s=16, linewidths=1)
        ax.set_xlabel(NAMES.get(x, x))
    history = axes[0, 0]
    best = trials[trials["state"] == "complete"].set_index("trial")["value"].sort_index().cummax()
    history.step(best.index, best, where="post", color="#333333", linewidth=0.8)
    history.set_ylabel(study.score)
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax, space in zip(axes[0, 1:], study.space.values(), strict=True):
        low, high, is_log = space if isinstance(space, tuple) else (min(space), max(space), False)
        ax.set_xlim((low / 1.1, high * 1.1) if is_log else (low - 0.05 * (high - low), high + 0.05 * (high - low)))
        if is_log:
            ticks = [low, math.sqrt(low * high), high]
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            ax.minorticks_off()
    notes = ["Line: the best so far. Crosses: pruned trials, at their last score."]
    return Drawing(f"study-{study.name}", f"Search: {title(study)}", figure, trials.to_dict("records"), notes)


def search_command(study: Study) -> str:
    """The command that makes or resumes a search."""
    from gloss.runtime.command import word_of  # here: it loads Hydra, which only studies need

    budget = config_file("search", study.search, is_optional=True).get("budget", {})
    settings = {  # the value, and its default
        "variant": (study.variant, "paper"),
        "search": (study.search, "fair"),
        "dataset.train_limit": (study.train_limit, None),
        "trainer.max_epochs": (study.max_epochs, TrainerConfig.max_epochs),
        "seed": (study.seed, 1),
        "search.trials": (study.num_trials, budget.get(study.loss, budget.get("any"))),
    }
    words = {key: getattr(study, key) for key in ("dataset", "model", "mode", "loss")}
    words |= {key: value for key, (value, usual) in settings.items() if value != usual} | study.given
    return shlex.join([*program("tune").split(), *(word_of(key, value) for key, value in words.items())])
