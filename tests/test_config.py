"""The configuration: every file composes, and every invalid value gives one message before texts are loaded."""

from __future__ import annotations

from dataclasses import is_dataclass

import pytest
import yaml
from conftest import composed

from gloss.cli import train
from gloss.cli.hydra_main import main
from gloss.config import CONFIG_DIR, ROOT, Config
from gloss.errors import ConfigError
from gloss.losses.registry import LOSSES
from gloss.records.reading import read_records
from gloss.records.run_folder import config_hash, run_folder

GROUPS = {"dataset": 17, "model": 7, "loss": 7, "mode": 2, "variant": 2, "ablation": 7}
NEEDS = {"csv": "dataset.path=x.csv", "hub": "dataset.path=x", "hf": "model.name=x"}
NEEDS |= {"gloss_o": "loss.sigma=0.5", "scl": "mode=standalone"}


@pytest.mark.parametrize("group", GROUPS)
def test_every_file_of_a_group_composes(group: str):
    names = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    assert len(names) == GROUPS[group]
    for name in names:
        cfg = composed(f"{group}={name}", *NEEDS.get(name, "").split())
        assert len(config_hash(cfg, "f")) == 8


REFUSED = {
    "loss.gamma=1": "loss.gamma=1 is not allowed: expected above 0 and below 1",
    "loss.lam=1.0": "loss.lam=1.0 is not allowed: expected from 0 to 0.99",  # no classifier would learn
    "loss=gloss_o loss.sigma=9e-7": 'loss.sigma=9e-7 is not allowed: expected "sqrt" or a number of at least 1e-6',
    "loss=gloss_o loss.sigma=nan": "loss.sigma=nan is not allowed",
    "trainer.batch_size=1": "trainer.batch_size=1 is not allowed: expected a whole number of at least 2",
    "trainer.lr=inf": "trainer.lr=inf is not allowed",
    "trainer.max_epochs=5001": "expected a whole number from 1 to 5000",
    "loss=ce loss.temperature=0.3": "loss.temperature=0.3 has no effect with loss=ce; it belongs to scl_ce, scl",
    "loss.lam=0.5 mode=standalone": "loss.lam=0.5 has no effect in mode=standalone",
    "loss.gamma=null": "loss.gamma=null is not allowed: loss=gloss_sqrt needs a value",
    "loss=ce mode=standalone": "standalone mode trains without a classifier",
    "loss=scl_ce mode=standalone": "Use loss=scl",
    "loss.sigma=0.5": "use loss=gloss_o",
    "loss=gloss_o loss.sigma=sqrt": "use loss=gloss_sqrt",
    "trainer.sampler=balanced": "expected a divisor of trainer.batch_size=128",
    "trainer.classes_per_batch=4": "trainer.classes_per_batch=4 has no effect with trainer.sampler=random",
    "trainer.device=gpu": "trainer.device=gpu is not allowed: expected auto, cpu, cuda, cuda:N or mps",
    "trainer.device=mps variant.loss_dtype=float64": "mps, which has no float64",
    "variant=released trainer.grad_cache_chunk=8": "is not allowed with variant.forward_passes=2",
    "model.alias=../x": "model.alias=../x is not allowed: expected letters",
    "variant=released loss=scl_ce loss.lam=0.5": "fixed at 0.9",
    "loss=ce variant.supcon=released": "variant.supcon=released has no effect with loss=ce mode=integrated",
    "loss=triplet variant=released variant.gloss_objective=nll": "variant.gloss_objective=nll has no",
    "loss=gloss_o loss.sigma=1 variant.sqrt_rule='sqrt(d/3)'": "variant.sqrt_rule=sqrt(d/3) has no",
    "mode=standalone variant.divide_by_unlabeled=true": "variant.divide_by_unlabeled=True has no effect",
    "mode=standalone loss=scl variant.class_weights=balanced": "variant.class_weights=balanced has no",
    "mode=standalone loss=scl variant.scl_lam=0.5": "variant.scl_lam=0.5 has no effect with loss=scl",
    "mode=standalone variant.forward_passes=2": "variant.forward_passes=2 has no effect",
    "loss=ce variant.forward_passes=2": "variant.forward_passes=2 has no effect",
    "variant.early_stopping_min_delta=0.01": "variant.early_stopping_min_delta=0.01 has no effect",
    "variant.probe=adam": "variant.probe=adam has no effect",
    "dataset.encoding=cp1252": "dataset.encoding=cp1252 has no effect with dataset=mr",
    "dataset.shift_to=r8": "dataset.shift_to=r8 has no effect without experiment=shift",
    "trainer.embeddings_at=[1,500]": "expected epochs from 0 to trainer.max_epochs=200",
    "model=minilm model.revision=abc": "model.revision=abc has no effect",
    "dataset=csv dataset.path=x.csv dataset.text=[a,a]": "expected one column, or two",
    "dataset=csv dataset.path=x.csv dataset.text=[body,label]": "it holds the label's column, label",
    "dataset=csv dataset.path=x.csv dataset.shift_to=sst2": "dataset.shift_to=sst2 has no effect",
    "dataset=csv": "dataset.path=null is not allowed",
    "loss=ce dataset.train_limit=60 dataset.unlabeled=rest": "dataset.unlabeled=rest has no effect with loss=ce",
    "loss=scl dataset.unlabeled_path=a.csv": "dataset.unlabeled_path=a.csv has no effect with loss=scl_ce",
    "trainer.unlabeled_per_batch=8": "trainer.unlabeled_per_batch=8 has no effect without",
    "dataset.unlabeled=rest": "has no effect without dataset.train_limit",
    "dataset.unlabeled=rest dataset.train_limit=60 dataset.unlabeled_path=a.csv": "not allowed together",
    "dataset.unlabeled=rest dataset.train_limit=60 variant=released": "with variant.divide_by_unlabeled=true",
    "dataset.unlabeled=all": "expected one of rest",
    "dataset.path=x.csv": "dataset.path=x.csv has no effect with dataset=mr",
    "ablation.lam_offset=-0.9": "loss.lam would become -0.1",
    "loss=ce ablation.gamma_offset=0.1": "ablation.gamma_offset=0.1 has no effect",
    "loss=ce ablation.graph_shuffle=true": "ablation.graph_shuffle=True has no effect with loss=ce",
    "loss=ce ablation.graph_noise=0.1": "ablation.graph_noise=0.1 has no effect with loss=ce, which builds no graph",
    "dataset=hub dataset.path=/tmp dataset.revision=abc": "dataset.revision=abc has no effect with a folder",
    "loss=ce ablation.sigma_scale=2": "ablation.sigma_scale=2.0 has no effect with loss=ce",
}


@pytest.mark.parametrize("words", REFUSED)
def test_invalid_values_are_refused_with_the_allowed_ones(words: str):
    with pytest.raises(ConfigError) as error:
        composed(*words.split())
    assert REFUSED[words] in str(error.value) and "\n" not in str(error.value)


def test_several_invalid_combinations_are_reported_together():
    with pytest.raises(ConfigError) as error:
        composed("loss=ce", "loss.temperature=0.3", "variant.probe=adam", "trainer.embeddings_at=[500]")
    assert [line.split()[-1] for line in str(error.value).splitlines()] == ["out", "out", "trainer.max_epochs=200"]


@pytest.mark.parametrize(
    "words",
    [
        "loss=scl_ce variant.supcon=released",
        "loss=gloss_sqrt variant.sqrt_rule='sqrt(d/3)' variant.divide_by_unlabeled=true",
        "loss=ce variant.class_weights=balanced",
        "loss=cosine variant.forward_passes=2",
        "loss=cosine mode=standalone variant.class_weights=balanced variant.probe=adam",
        "mode=standalone variant.class_weights=balanced variant.early_stopping_min_delta=0.01",
        "dataset=docstrings dataset.unlabeled_path=x.csv dataset.encoding=cp1252 dataset.separator=#",
        "dataset=sst2 ablation.test_on=x.csv dataset.encoding=cp1252",
    ],
)
def test_keys_are_accepted_where_they_have_an_effect(words: str):
    composed(*words.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("loss=gloss_o", "loss=gloss_o needs a σ"),
        ("dataset=mr paths.data=nowhere", "nowhere"),
        ("dataset=mr model=hf", "model=hf needs model.name=…"),
        ("dataset=csv dataset.path={toy} model=minilm model.num_layers=9", "the model has 6 layers"),
        ("dataset=csv dataset.path={toy} model.max_length=600", "model.max_length=600 is not allowed"),
        ("dataset=csv dataset.path={toy} ablation.test_on=nosuch", "nosuch"),
        ("dataset=csv dataset.path={toy} dataset.separator=\x02", r"dataset.separator='\x02' is not allowed"),
        ("dataset=csv dataset.path={toy} dataset.text=[\u200ftext]", r"dataset.text=['\u200ftext'] is not allowed"),
        (
            "dataset=csv dataset.path={toy} trainer.sampler=balanced trainer.batch_size=8 trainer.classes_per_batch=4",
            "trainer.classes_per_batch=4 is not allowed: expected at most 3, the classes of csv",
        ),
        (
            "dataset=csv dataset.path={toy} dataset.train_limit=3 ablation.label_noise=0.7 seed=8",
            "ablation.label_noise=0.7 left one class in the training texts",
        ),
        ("dataset=csv dataset.path={toy} loss=triplet loss.margin=1e16", "loss.margin=1e+16 is not allowed"),
    ],
)
def test_impossible_runs_print_one_message_and_leave_no_folder(words, message, toy_csv, tmp_path, capsys):
    (outputs := tmp_path / "outputs").mkdir()
    settings = [f"paths.outputs={outputs}", "model=tiny", "trainer.precision=float32"]
    assert main(train.task, [*settings, *words.format(toy=toy_csv).split()]) == 2
    error = capsys.readouterr().err
    assert message in error and "\nerror: " in "\n" + error and len(error.splitlines()) <= 4
    assert not list(tmp_path.rglob("seed=*")) and outputs.is_dir()  # the user's own folder stays


def test_scl_in_integrated_mode_is_the_papers_scl_ce():
    assert run_folder(composed("loss=scl")) == run_folder(composed("loss=scl_ce"))


def test_config_hash_depends_only_on_keys_that_change_a_result():
    base = config_hash(composed())
    same = "trainer.device=cpu trainer.grad_cache_chunk=16 paths.outputs=x rerun=true seed=2 trainer.save_model=true"
    for word in (*same.split(), "trainer.lr=2.0e-5", "trainer.tensorboard=true", "trainer.save_embeddings=true"):
        assert config_hash(composed(word)) == base, word
    other = "trainer.precision=bf16 trainer.lr=3e-5 loss.gamma=0.5 dataset.train_limit=100 variant=released"
    for word in (*other.split(), "model.max_length=64", "ablation.graph_noise=0.1", "ablation.graph_shuffle=true"):
        assert config_hash(composed(word)) != base, word


def test_older_runs_keep_their_folders():
    """A key that came later is left out of the hash while it changes nothing."""
    records, problems = read_records(ROOT / "outputs" / "reference")
    assert len(records) > 400 and not problems
    new = vars(Config())
    for record in records:
        config = record.result["config"].items()
        cfg = Config(**{key: type(new[key])(**x) if is_dataclass(new[key]) else x for key, x in config})
        assert config_hash(cfg, record.result["fingerprint"]) == record.identity.config_hash, record.folder


@pytest.mark.parametrize(("mode", "max_grad_norm"), [("integrated", 1.0), ("standalone", 5.0)])
def test_defaults_are_the_protocol_of_the_paper_and_the_released_code(mode: str, max_grad_norm: float):
    expected = {"lr_decay_epoch": 30, "lr_decay_factor": 0.1, "max_epochs": 200, "patience": 10, "batch_size": 128}
    expected |= {"max_grad_norm": max_grad_norm, "sampler": "random", "max_length": 128, "margin": 5.0}
    for model in ("bert", "roberta_large", "distilbert"):
        cfg = composed(f"mode={mode}", f"model={model}", "loss=triplet")
        found = vars(cfg.trainer) | vars(cfg.model) | vars(cfg.loss)
        assert {key: found[key] for key in expected} == expected


def test_a_single_text_column_needs_no_list():
    csv = ("dataset=csv", "dataset.path=x.csv")
    one, listed, pair = (composed(*csv, f"dataset.text={text}") for text in ("title", "[title]", "[title,body]"))
    assert one.dataset.text == listed.dataset.text == ["title"] and pair.dataset.text == ["title", "body"]
    assert config_hash(one, "f") == config_hash(listed, "f") != config_hash(pair, "f")


def test_each_loss_has_a_file_with_the_keys_of_its_row():
    assert sorted(LOSSES) == sorted(path.stem for path in (CONFIG_DIR / "loss").glob("*.yaml"))
    for name, row in LOSSES.items():
        assert yaml.safe_load((CONFIG_DIR / "loss" / f"{name}.yaml").read_text()).keys() == {"name", *row.keys}
