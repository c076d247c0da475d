"""--help of the scripts that Hydra configures: every key in a line, from the schema and the files of configs/."""

from __future__ import annotations

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from gloss.config import CONFIG_DIR, known_options

EXAMPLES = {
    "train": (
        "Train one run, or with -m a sweep: every combination of values separated by commas.",
        "python scripts/train.py dataset=mr model=bert loss=gloss_sqrt seed=1",
        "python scripts/train.py -m dataset=mr,r8 loss=ce,gloss_sqrt seed=1,2,3",
    ),
    "tune": (
        "Search hyperparameters. The same command once more is one more worker on the same study.",
        "python scripts/tune.py dataset=mr model=bert loss=gloss_o search.trials=12",
        "python scripts/tune.py -m dataset=mr,r8 model=minilm loss=ce,gloss_o",
    ),
}
FLAGS = {
    "-m": "a sweep (--multirun); failures are listed at the end",
    "--cfg job": "show the configuration that would run, with the values of a search",
    "-h": "this text (--help); --hydra-help: Hydra's own flags",
}
GROUPS = {
    "dataset": "which texts",
    "model": "which encoder",
    "loss": "which loss",
    "mode": "with cross-entropy, or the loss alone",
    "variant": "the paper's method, or the released code's where they differ",
    "ablation": "one change of a hyperparameter, for figure 7",
    "search": "which ranges are searched",
    "experiment": "the sweep behind a table or figure (with -m)",
}
BY_US = ("experiment.name", "experiment.sweep", "search.overridden")  # not set on a command line


def usage(config_name: str, schema: type) -> str:
    """The text of --help."""
    what, *examples = EXAMPLES[config_name]
    options = known_options(schema)
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        defaults = compose(config_name)
        choices = compose(config_name, return_hydra_config=True).hydra.runtime.choices
    lines = [f"python scripts/{config_name}.py [key=value …] [-m]", "", what, "", *(f"  {x}" for x in examples), ""]
    lines += [f"  {flag:<12} {text}" for flag, text in FLAGS.items()]
    lines += ["", "Files, one of each:  key = default", ""]
    for group, text in GROUPS.items():
        if group in choices:
            names = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
            chosen = f"{group}={choices[group] or 'null'}"
            lines.append(f"  {chosen:<32}  {text}: {', '.join(names)}")
    lines += ["", "Keys (defaults are those of the files above; null: not set):", ""]
    for key, option in options.items():
        if key in BY_US or key in GROUPS:
            continue
        value = "" if OmegaConf.is_missing(defaults, key) else OmegaConf.select(defaults, key)
        shown = "…" if option.type.startswith("dict") else _written(value)
        told = "; ".join(filter(None, (option.help, option.allowed and f"expected: {option.allowed}")))
        lines.append(f"  {f'{key}={shown}':<32}  {told}")
    return "\n".join(lines)


def _written(value: object) -> str:
    plain = {None: "null", True: "true", False: "false"}
    if isinstance(value, (bool, type(None))):
        return plain[value]
    if not isinstance(value, (str, int, float)):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value)
