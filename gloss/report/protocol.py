"""Deviations of a configuration from the paper's protocol: such runs bear no verdict."""

from __future__ import annotations

from typing import Any

from gloss.config import HYPERPARAMETERS, Config, config_file, rows_of_search
from gloss.records.reading import number
from gloss.search.best_values import search_settings_not_shared

# Settings whose defaults are the protocol's; a run that changes one is another experiment. The encoder, the keys of the
# variant, the gradient norm of the mode and the margin of the loss are added from the files of configs/. Precision is
# left out: the paper names none, and `auto` is bf16 or float32 by device.
_SETTINGS = {
    "dataset": ("source", "train_limit", "unlabeled", "unlabeled_path"),  # own files may bear the name of a paper's set
    "model": ("num_layers", "dropout", "max_length"),
    "trainer": (
        "unlabeled_per_batch",
        "max_epochs",
        "batch_size",
        "patience",
        "lr_decay_epoch",
        "lr_decay_factor",
        "sampler",
    ),
    "ablation": ("sigma_scale", "gamma_offset", "lam_offset", "graph_noise", "graph_shuffle", "label_noise"),
}
_PROTOCOL = {f"{s}.{key}": getattr(getattr(Config(), s), key) for s, keys in _SETTINGS.items() for key in keys}
_NAMED_AT = {  # a folder of configs/: where a configuration names the file of it, and the file where it names none
    "model": ("model.alias", ""),
    "variant": ("variant.name", "paper"),
    "mode": ("mode", ""),
    "loss": ("loss.name", ""),
    "experiment": ("experiment.name", ""),
    "search": ("tuned.search", "fair"),
}
RELEASED = "variant=released"
SMOKE_EPOCHS = 10  # at most so many, too few for early stopping
SMOKE_TEXTS = 1000  # fewer training texts


def protocol_deviations(config: dict[str, Any]) -> list[str]:
    """Deviations of a configuration from the paper's protocol: ["dataset.train_limit=500", "search.trials=2"].

    A key that an older record lacks counts as the protocol's.
    """
    return [*other_settings(config), *_other_search(config)]


def is_comparable(config: dict[str, Any]) -> bool:
    """Whether runs of this configuration bear a verdict, and speak for or against a claim.

    They keep the paper's protocol. The released code's variant does: the paper's numbers most likely come from it.
    """
    return not set(protocol_deviations(config)) - {RELEASED}


def other_settings(config: dict[str, Any]) -> list[str]:
    """`protocol_deviations` but for the search: another encoder under a known alias, variant, or key."""
    model, variant, mode, loss = (_file(config, group) for group in ("model", "variant", "mode", "loss"))
    expected: dict[str, Any] = {}
    if model.get("name", "???") != "???":
        expected |= {f"model.{key}": model.get(key) for key in ("name", "revision")}
    expected |= {f"variant.{key}": value for key, value in variant.get("variant", {}).items()}
    expected |= _PROTOCOL
    if norm := mode.get("trainer", {}).get("max_grad_norm"):
        expected["trainer.max_grad_norm"] = norm
    if margin := loss.get("margin"):
        expected["loss.margin"] = margin
    found = {path: _at(config, path, protocol) for path, protocol in expected.items()}
    own = [f"{path}={'null' if x is None else x}" for path, x in found.items() if x != expected[path]]
    name = _at(config, "variant.name", "paper")
    return [f"variant={name}"] * (name != "paper") + own


def reductions(config: dict[str, Any]) -> list[str]:
    """Settings that make a run a smoke run: few training texts, epochs or layers, unless its experiment sets them."""
    its_own = _file(config, "experiment")
    swept = its_own["hydra"]["sweeper"]["params"] if its_own else {}
    limits = {  # the largest value of a smoke run
        "dataset.train_limit": SMOKE_TEXTS - 1,
        "model.num_layers": float("inf"),
        "trainer.max_epochs": min(SMOKE_EPOCHS, 2 * (number(config, "trainer", "patience") or SMOKE_EPOCHS)),
    }
    values = {path: number(config, *path.split(".")) for path in limits}
    found = [
        f"{path}={x:g}"
        for path, x in values.items()
        if x is not None and x <= limits[path] and x != _at(its_own, path, None) and path not in swept
    ]
    return ["model=tiny"] * (_at(config, "model.alias", "") == "tiny") + found


def _other_search(config: dict[str, Any]) -> list[str]:
    """Another number of trials than the protocol's (0: no value comes from a search), values given by hand beside
    searched, and searched values outside the protocol's ranges."""
    if not _at(config, "experiment.search", True):
        return []  # a timing
    loss = _at(config, "loss.name", "")
    tuned = found if isinstance(found := config.get("tuned"), dict) else {}  # true, false: no search was found or used
    search = _file(config, "search")
    space = rows_of_search(search.get("space", {}), str(config.get("mode")), loss, number(config, "variant", "scl_lam"))
    keys, applied = [HYPERPARAMETERS[name] for name in space], tuned.get("applied")
    trials = number(tuned, "trials") or 0
    by_hand = [key for key in keys if isinstance(applied, list) and key not in applied]
    if keys and (by_hand == keys or not trials):
        return ["search.trials=0"]
    budgets = search.get("budget", {})
    budget, failed = budgets.get(loss, budgets.get("any", 0)), number(tuned, "fail") or 0
    is_other = keys and not trials - failed <= budget <= trials  # a failed trial may have been tried again
    found = [f"search.trials={trials:.0f}"] if is_other else []
    found += [f"searched with {text}" for text in search_settings_not_shared(config, tuned)]
    ranges = given if isinstance(given := tuned.get("space"), dict) else None  # an older record has none
    for (name, row), key in zip(space.items(), keys, strict=True):
        value = number(config, *key.split("."))
        if key in by_hand:
            found.append(f"{key}={_at(config, key, None)} by hand")
        elif isinstance(row, dict) and ranges is not None and (own := _other_range(row, ranges.get(name))):
            found.append(f"{key} searched {own}")
        elif isinstance(row, dict) and {"low", "high"} <= row.keys() and value is not None:
            if not row["low"] <= value <= row["high"] and value != row.get("final"):
                found.append(f"{key} searched outside {row['low']:g} to {row['high']:g}")
    return found


def _other_range(row: dict[str, Any], searched: Any) -> str:
    """The range that was searched, in words, where it is not the protocol's row; else empty."""
    if not isinstance(searched, dict):
        return "at one value"
    expected = {key: x for key, x in row.items() if key != "final"}
    usual = {"log": False, "step": None}
    if usual | searched == usual | expected:
        return ""
    shown = ", ".join(f"{key} {x}" for key, x in searched.items() if x != usual.get(key))
    return f"with {shown}"


def _file(config: dict[str, Any], group: str) -> dict[str, Any]:
    """The file of configs/<group> that a configuration names; empty where there is none."""
    return config_file(group, str(_at(config, *_NAMED_AT[group])), is_optional=True)


def _at(config: dict[str, Any], path: str, default: Any) -> Any:
    """The value at "section.key"; default: where there is none."""
    section, _, key = path.partition(".")
    found = config.get(section, None if key else default)
    return (found.get(key, default) if isinstance(found, dict) else default) if key else found
