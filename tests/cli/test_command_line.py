"""Command lines: values are taken literally, words may stand in any order, and errors give one line each."""

from __future__ import annotations

import errno
import fcntl
import importlib
import os
import re
import shutil
from typing import get_type_hints

import pytest
import yaml
from conftest import ASCII_LOCALE, run_python
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from gloss.cli.command import read as read_command
from gloss.cli.command import run_command
from gloss.cli.entry import COMMANDS
from gloss.cli.hydra_main import main
from gloss.cli.predict import Predict
from gloss.config import ROOT, TuneConfig, known_options
from gloss.experiments.grid import expand_grid
from gloss.runtime.locks import FileLock
from gloss.runtime.overrides import override, prepared, value_of
from gloss.runtime.terminal import explain
from gloss.search.storage import _encoded

OPTIONS = known_options(TuneConfig)


def read(*words: str, key: str) -> object:
    """The value of a key after Hydra's parser and OmegaConf."""
    cfg = OmegaConf.structured(TuneConfig)
    for word in OverridesParser.create().parse_overrides(prepared(words, OPTIONS, is_sweep=False)):
        OmegaConf.update(cfg, word.key_or_group, word.value(), force_add=word.is_force_add())
    value = OmegaConf.select(cfg, key)
    return OmegaConf.to_object(value) if OmegaConf.is_config(value) else value


SIGNS = ["a=b.csv", "a,b.csv", "[x].csv", "{x}.csv", "a b.csv", " a ", "données.csv", "表.csv", "it's.csv", 'a"b']
SIGNS += ["a(1).csv", "f(1)", "#x", "100%", "a&b", "back\\slash", "end\\", "x\\'y", "", "$x", "null.csv", "~x~"]
SIGNS += ["a;b", "a:b"]
NUMBERS = ["2024_05", "1e3", "1.10", "007", "true", "yes", "no", "inf", "nan", "2024-05-01", "0x1f", "1_0"]


@pytest.mark.parametrize("value", [*SIGNS, *NUMBERS])
@pytest.mark.parametrize("key", ["dataset.path", "paths.outputs", "model.name", "dataset.label"])
def test_text_values_are_taken_literally(key: str, value: str):
    assert read(f"{key}={value}", key=key) == value
    assert read(override(key, value), key=key) == value
    assert value_of([override(key, value)], key) == value


def test_names_and_columns_are_taken_literally_and_null_where_allowed():
    for value in NUMBERS:
        assert read(f"dataset.name={value}", key="dataset.name") == value
        assert read(f"dataset.text={value}", key="dataset.text") == [value]
        assert read(f"dataset.text=[{value},body]", key="dataset.text") == [value, "body"]
    assert read("dataset.path=null", key="dataset.path") is None
    assert read("dataset.name=null", key="dataset.name") == "null"  # this key cannot be None


@pytest.mark.parametrize("key", ["dataset.path", "dataset.unlabeled_path", "paths.outputs", "model.name"])
@pytest.mark.parametrize("quote", ["", "'", '"'])
def test_a_tilde_is_expanded_in_paths(key: str, quote: str, monkeypatch):
    monkeypatch.setenv("HOME", "/ho me")
    assert read(f"{key}={quote}~/x y{quote}", key=key) == "/ho me/x y"
    found = read_command(Predict, ["to=~/x", "text=~/x", "dataset=mr", "seed=1"])
    assert (found.to, found.text, found.selected()) == ("/ho me/x", "~/x", {"dataset": "mr", "seed": "1"})


def test_sweeps_over_text_values_are_quoted_per_value(tmp_path):
    file = tmp_path / "a,b.csv"
    file.touch()
    words = ["dataset.name=1e3,b", "-m", f"dataset.path={file}", "dataset.label=é,y", "seed=1,2"]
    expected = ["-m", "dataset.name='1e3',b", f"dataset.path='{file}'", "dataset.label='é',y", "seed=1,2"]
    assert prepared(words, OPTIONS) == expected
    assert value_of(prepared(["dataset.name=1e3,2_0", "-m"], OPTIONS), "dataset.name") == "'1e3','2_0'"
    kept = ["seed=range(1,3)", "model=choice(bert,tiny)", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    assert prepared(["--multirun", *kept], OPTIONS) == ["--multirun", *kept]


def test_the_sweep_flag_may_stand_anywhere(tmp_path):
    words = ["dataset=docstrings", "loss=ce,cosine", "-m", f"paths.outputs={tmp_path / 'a b=c'}"]
    seen = []
    assert main(lambda cfg, place: seen.append((cfg.loss.name, place)), words) == 0
    assert seen == [("ce", "run 1 of 2"), ("cosine", "run 2 of 2")]


def test_cfg_job_of_a_sweep_prints_the_configurations_that_would_run_and_starts_nothing(tmp_path, capsys):
    words = ["-m", "experiment=few_shot", "dataset=mr", "model=tiny", "seed=1", "loss=ce", f"paths.outputs={tmp_path}"]
    refuse = lambda cfg, place: pytest.fail("it ran")  # noqa: E731
    assert main(refuse, [*words, "hydra/launcher=slurm", "--cfg", "job"]) == 0
    shown = list(yaml.safe_load_all(capsys.readouterr().out))
    limits = expand_grid("few_shot", words[2:])
    assert [cfg["dataset"]["train_limit"] for cfg in shown] == [spec.config.dataset.train_limit for spec in limits]
    assert len(shown) > 1 and not list(tmp_path.iterdir())
    one = ["experiment=graph_noise", "dataset=mr", "model=tiny", "seed=1", "loss=gloss_sqrt", "mode=standalone"]
    noisy = ["ablation.graph_noise=0.04", "ablation.graph_shuffle=false"]  # left out of its sweep, but shown alone
    assert main(refuse, [*one, *noisy, "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["ablation"]["graph_noise"] == 0.04
    assert main(refuse, ["-m", "dataset=mr", "model=tiny", "seed=1,2", "hydra/launcher=slurm"]) == 2
    assert "hydra/launcher=slurm needs SLURM's commands on this machine" in capsys.readouterr().err


def test_a_sweeps_folder_can_be_chosen(tmp_path):
    words = ["-m", "dataset=docstrings", "seed=1,2", f"hydra.sweep.dir={tmp_path / 'here'}"]
    assert main(lambda cfg, place: None, words) == 0
    assert (tmp_path / "here" / "multirun.yaml").is_file()


REFUSED = {
    "experiment=null": "leave experiment out",
    "+foo=1": "there is no key foo",
    "trainer.learning_rate=1e-3": "did you mean trainer.lr?",
    "lr=1e-3": "did you mean trainer.lr?",
    "loss.gama=0.5": "did you mean loss.gamma?",
    "model.nam=x": "did you mean model.name?",
    "search=fair": "there is no key search",
    "loss=ce,gloss_sqrt": "add -m",
    "seed=1,2": "add -m",
    "dataset.text=question,answer": "dataset.text=[question,answer]",
    "trainer.lr=é": "write it in quotes",
    "experiment.name=table2": "it is set by experiment=",
    "experiment.only.x=1": "it is set by experiment=",
    "experiment.search=false": "it is set by experiment=: whether",
    "loss.name=ce": "it is set by loss=",
    "seed": "expected key=value",
    "~seed": "expected key=value",
}


@pytest.mark.parametrize("word", REFUSED)
def test_invalid_words_are_refused_with_a_suggestion(word: str, capsys):
    assert main(lambda cfg, place: pytest.fail("it ran"), [word]) == 2
    output = capsys.readouterr().err
    assert REFUSED[word] in output and output.startswith("error: ") and len(output.splitlines()) == 1


@pytest.mark.parametrize("word", ["trainer.lr=interval(1e-5,1e-3)", "seed=glob(*)"])
def test_sweeps_without_written_values_are_refused(word, capsys):
    assert main(lambda cfg, place: pytest.fail("it ran"), ["-m", word]) == 2
    assert "is no list of values: write them out" in capsys.readouterr().err


def test_a_plus_before_an_existing_key_has_no_effect():
    assert prepared(["+trainer.lr=1e-3", "++experiment=fig2"], OPTIONS) == ["trainer.lr=1e-3", "experiment=fig2"]
    assert read("+search.budget.cosine=3", key="search.budget.cosine") == 3


def test_all_errors_of_a_command_line_are_printed_together(capsys):
    words = ["epochs=3", "trainer.lr=x", "loss.gamma=0.5,3", "dataset=mrr", "trainer.device=cpu", "--multi-run", "-m"]
    assert main(lambda cfg, place: pytest.fail("it ran"), words) == 2
    output = capsys.readouterr().err.splitlines()
    for line, part in zip(output, ["there is no flag --multi-run: expected one of", "did you mean trainer.max_epochs?",
                                 "could not be converted to Float", "loss.gamma=0.5,3 is not allowed: expected above 0",
                                 "dataset=mrr is not allowed: expected one of 20ng, "], strict=True):  # fmt: skip
        assert line.startswith("error: ") and part in line


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("predict", ["txt=a", "neighbours=-1"], "error: txt=a: there is no key txt (did you mean text?)\nerror: neigh"),
        ("export", ["run=best"], "error: expected to=…: the folder to make"),
        ("plot", ["method=umap"], "error: method=umap is not allowed: expected one of tsne, pca"),
        ("report", ["paths.outputs=nothing/here"], "error: paths.outputs=nothing/here: no such folder of runs"),
        ("report", ["only=[table99]"], "error: only=table99 is not allowed: expected some of "),
        ("reproduce", ["action=pln", "lr=3"], "error: action=pln is not allowed: expected one of run, plan, tune"),
        ("reproduce", ["target=table99"], "error: table99 is no table, figure or experiment"),
        ("reproduce", ["-m"], "error: there is no flag -m here: values separated by commas are run each"),
        ("reproduce", ["--cfg", "job"], "error: there is no flag --cfg here\n"),
        ("reproduce", ["device=cpu"], "error: device= has no effect with action=run: a run takes trainer.device="),
        ("reproduce", ["action=status", "target=table2"], "error: target= has no effect with action=status"),
        ("report", ["measure=[tfidf]", "models=[tiny]"], "error: models= has no effect without measure=frozen"),
        ("report", ["measure=[tfidf]", "tokenizer=bert"], "error: tokenizer= has no effect without measure=texts"),
        (
            "report",
            ["measure=[texts]", "settings=demo", "datasets=[mr]"],
            "error: datasets= has no effect with settings=",
        ),
        ("runs", ["compare=a"], "error: expected two runs"),
        ("runs", ["compare=a/1,b/1", "sort=seed"], "error: sort= has no effect with compare="),
        ("data", ["datasets=imdb"], "error: there is no data set imdb to fetch"),
        ("bench", ["losses=ce,focal"], "error: losses=focal is not allowed: expected some of ce, "),
        ("bench", ["rounds=0", "clock=sun"], "error: rounds=0 is not allowed: expected a whole number of at least 1"),
        ("gpu_check", ["--device=cpu"], "error: there is no flag --device=cpu"),
    ],
)
def test_every_command_has_the_same_syntax_error_format_and_status(command, words, message, capsys):
    assert run_command(importlib.import_module(f"gloss.cli.{command}"), words) == 2
    output = capsys.readouterr()
    assert output.err.startswith(message) and not output.out
    assert all(line.startswith("error: ") for line in output.err.splitlines())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_a_line_per_key(name: str, capsys):
    command = importlib.import_module(f"gloss.cli.{name}")
    options = known_options(get_type_hints(command.task)["cfg"])
    assert options and [key for key, option in options.items() if not option.help] == []
    assert run_command(command, ["--help"]) == 0
    text = capsys.readouterr().out
    assert f"\n  python scripts/{name}.py" in text
    for key in (key for key, option in options.items() if not option.is_derived):
        assert re.search(rf"^  {re.escape(key)}=\S* +\S", text, re.MULTILINE), key
    if name == "train":
        assert re.search("trainer.lr=2e-05 +learning rate; expected: above 0\n", text)
        assert "sets with these classes that are also tested" in text  # its comment is on a separate line
        assert "  search" not in text


@pytest.mark.parametrize(("name", "words", "key", "value"), [
    ("predict", ["text=a, b"], ["text"], "a, b"),
    ("train", ["loss=ce", "dataset.name=1e3"], ["dataset", "name"], "1e3"),
])  # fmt: skip
def test_cfg_job_prints_the_configuration(name, words, key, value, capsys):
    assert run_command(importlib.import_module(f"gloss.cli.{name}"), [*words, "--cfg", "job"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    for part in key:
        shown = shown[part]
    assert shown == value


def test_an_experiment_without_a_sweep_names_the_missing_choices(capsys):
    assert main(lambda cfg, place: pytest.fail("it ran"), ["experiment=table2"]) == 2
    output = capsys.readouterr().err
    assert "one value each of seed=1,2,3,4,5 dataset=mr,r8" in output and "with -m it is a sweep" in output
    seen = []
    words = ["experiment=table3", "dataset=mr", "model=bert", "loss=scl", "seed=2"]
    assert main(lambda cfg, place: seen.append((cfg.mode, cfg.seed, place)), words) == 0
    assert seen == [("standalone", 2, "")]  # the only mode of table3


# ------------------------------------------------------------------------------------------ terminals, locks, checkouts


def test_a_word_beyond_ascii_is_refused_in_an_ascii_locale():
    done = run_python("scripts/train.py", "dataset=csv", "dataset.label=catégorie", **ASCII_LOCALE)
    assert done.returncode == 2 and "PYTHONUTF8=1" in done.stderr and "Traceback" not in done.stderr


def test_scripts_of_a_checkout_use_its_package(tmp_path):
    for name in ("gloss", "scripts", "configs"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "configs" / "ablation" / "mine.yaml").write_text("sigma_scale: 1.0\n")
    done = run_python("scripts/train.py", "--help", cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0 and " mine," in done.stdout
    first = [script.read_text().split("sys.path.insert(0")[0] for script in (ROOT / "scripts").glob("*.py")]
    assert len(first) == len(COMMANDS)
    assert all("import gloss" not in text and "from gloss" not in text for text in first)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
def test_a_file_system_without_locks_gives_an_error_with_the_folder(number: int, tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError) as error, FileLock(tmp_path / "lock"):
        pass
    assert str(tmp_path) in explain(error.value) and "paths.outputs" in explain(error.value)


@pytest.mark.parametrize("password", ["p@ss", "a/b", "x#y?z", "100%", "a:b@c", "[x]", "%40", "q u"])
def test_passwords_may_contain_any_character(password: str):
    import sqlalchemy

    url = sqlalchemy.make_url(_encoded(f"postgresql+psycopg://me:{password}@host:5432/db"))
    assert url.password == password.replace("%40", "@") and (url.host, url.database) == ("host", "db")
    assert _encoded("postgresql://me@host/db") == "postgresql://me@host/db"


def test_messages_contain_no_password(capsys):
    for url in ("postgresql://me:se{cret@host/db", "postgresql://me:se,cret@host/db", "mysql://me:secret@host/db"):
        main(lambda cfg, place: None, [f"search.storage={url}", "nosuch=1"], "tune")
        main(lambda cfg, place: None, [f"search.storage={url}", "loss=nosuch"], "tune")
    output = capsys.readouterr()
    assert "cret" not in output.out + output.err and "nosuch" in output.err


def test_help_and_cfg_show_no_password(capsys, monkeypatch):
    monkeypatch.setenv("GLOSS_STORAGE", "postgresql://me:secret@host/db")
    tune = importlib.import_module("gloss.cli.tune")
    assert run_command(tune, ["--help"]) == 0
    assert run_command(tune, ["dataset=mr", "model=tiny", "loss=ce", "mode=integrated", "--cfg", "job"]) == 0
    shown = capsys.readouterr().out
    assert "secret" not in shown and "storage: …" in shown and "search.storage=null" in shown


@pytest.mark.parametrize("text", ["${price}", "${oc.env:HOME}", r"\${x}", r"a\\${x} \n ${", "$5"])
def test_a_text_may_hold_what_looks_like_an_interpolation(text: str):
    assert read_command(Predict, [f"text={text}"]).text == text
    assert read_command(Predict, ["columns=['${price}']"]).columns == ["${price}"]
