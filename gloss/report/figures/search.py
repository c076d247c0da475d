"""What a search did: its trials, and how the score depends on each hyperparameter."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.ticker import MaxNLocator

from gloss.paper.names import dataset_name, loss_name, model_name
from gloss.records.reading import shortened
from gloss.records.study import Study, Trial
from gloss.report.figure import Drawing, panels
from gloss.report.table import MISSING, Table, number_text
from gloss.report.tables.datasets_and_search import NAMES

LOOK = {"complete": ("o", "#1f6fb4"), "pruned": ("x", "#999999")}


def title(study: Study) -> str:
    words = [dataset_name(study.dataset), model_name(study.model), loss_name(study.loss, study.mode), study.mode]
    return ", ".join(words + ([] if study.variant == "paper" else [f"{study.variant} code"]))


def trials_table(study: Study) -> Table:
    """A line a trial, best first, then the pruned and the failed."""
    best = study.best
    ranks = {"complete": 0, "pruned": 1}
    order = sorted(study.trials, key=lambda t: (ranks.get(t["state"], 2), -(t["value"] or 0), t["number"]))
    columns = ["Trial", "State", *(NAMES[name] for name in study.space), study.score, "Epochs", "s"]
    rows, data = [], []
    for trial in order:
        twin = trial["duplicate_of"]
        state = trial["state"] if twin is None else f"{trial['state']}, as trial {twin}"
        value = number_text(trial["value"], digits=2 if study.mode == "integrated" else 4)
        params = [f"{trial['params'][name]:.3g}" if name in trial["params"] else MISSING for name in study.space]
        seconds = number_text(trial["seconds"], digits=1)
        number = f"{trial['number']} (best)" if best and trial["number"] == best["number"] else str(trial["number"])
        rows.append([number, state, *params, value, trial["epochs"] or MISSING, seconds])
        data.append({key: x for key, x in trial.items() if key != "params"} | trial["params"])
    amounts = f"{study.train_examples} training texts, at most {study.max_epochs} epochs, seed {study.seed}"
    notes = [f"{amounts}; search={study.search}."]
    if not study.is_finished:
        notes.append(f"Not finished: {study.num_trials} trials were asked for.")
    notes += [f"Trial {t['number']} failed: {shortened(t['reason'])}" for t in study.trials if t["reason"]]
    heading = f"Search: {title(study)}"
    return Table(f"study-{study.name}", heading, columns, rows, data, notes, command=command(study), num_keys=2)


def study_figure(study: Study) -> Drawing | None:
    """History, importance, and the score against each hyperparameter; None before there are two scores."""
    done = [t for t in study.trials if t["state"] in LOOK and t["value"] is not None and t["duplicate_of"] is None]
    if len(done) < 2:
        return None
    names = list(study.space)
    importance = importances(study)
    figure, axes = panels(1, 1 + bool(importance) + len(names), width=2.2, height=2.2)
    history, *bars = axes[0][: 1 + bool(importance)]
    scatter = axes[0][1 + len(bars) :]
    best_so_far, steps = -math.inf, []
    for trial in sorted(done, key=lambda t: t["number"]):
        if trial["state"] == "complete":
            best_so_far = max(best_so_far, trial["value"])
            steps.append((trial["number"], best_so_far))
    _points(history, [(t["number"], t) for t in done])
    history.step([x for x, _ in steps], [y for _, y in steps], where="post", color="#333333", linewidth=0.8)
    history.set_xlabel("trial")
    history.set_ylabel(study.score)
    history.xaxis.set_major_locator(MaxNLocator(integer=True))
    for ax in bars:  # none where too few trials say anything
        ax.barh([NAMES[name] for name in importance], list(importance.values()), height=0.5, color=LOOK["complete"][1])
        ax.invert_yaxis()
        ax.set_xlabel("importance")
    for ax, name in zip(scatter, names, strict=True):
        _points(ax, [(t["params"][name], t) for t in done])
        ax.set_xlabel(NAMES[name])
        ax.sharey(history)
        low, high, is_log = row if isinstance(row := study.space[name], tuple) else (min(row), max(row), False)
        ax.set_xlim((low / 1.1, high * 1.1) if is_log else (low - 0.05 * (high - low), high + 0.05 * (high - low)))
        if is_log:
            ticks = [low, math.sqrt(low * high), high]
            ax.set_xscale("log")
            ax.set_xticks(ticks, [f"{x:.2g}" for x in ticks])
            ax.minorticks_off()
    data: list[dict[str, object]]
    data = [{"trial": t["number"], "state": t["state"], "value": t["value"], **t["params"]} for t in done]
    data += [{"hyperparameter": name, "importance": share} for name, share in importance.items()]
    notes = ["Line: the best so far. Crosses: pruned trials, at their last score."]
    if importance:
        notes.append("Importance: estimated influence of each hyperparameter (fANOVA); unreliable with few trials.")
    return Drawing(f"study-{study.name}", f"Search: {title(study)}", figure, data, notes, command=command(study))


def _points(ax: Any, points: list[tuple[float, Trial]]) -> None:
    for state, (marker, color) in LOOK.items():
        found = [(x, t["value"]) for x, t in points if t["state"] == state]
        ax.scatter([x for x, _ in found], [y for _, y in found], marker=marker, color=color, s=16, linewidths=1)


def importances(study: Study) -> dict[str, float]:
    """Hyperparameter -> its share of the score's variance, largest first; empty where too few trials say anything.

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


def command(study: Study) -> str:
    words = {"dataset": study.dataset, "model": study.model, "mode": study.mode, "loss": study.loss}
    if study.variant != "paper":
        words["variant"] = study.variant
    if study.search != "fair":
        words["search"] = study.search
    amounts: dict[str, tuple] = {
        "dataset.train_limit": (study.train_limit, None),
        "trainer.max_epochs": (study.max_epochs, 200),
    }
    amounts |= {"seed": (study.seed, 1), "search.trials": (study.num_trials, 15)}
    words |= {key: str(value) for key, (value, usual) in amounts.items() if value != usual}
    return "python scripts/tune.py " + " ".join(f"{key}={value}" for key, value in words.items())
