"""Experiments as Hydra overlays: the number of runs, and the equality of cells with the command line."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from gloss.cli.hydra_main import main
from gloss.config import CONFIG_DIR, TuneConfig, known_options
from gloss.errors import ConfigError
from gloss.experiments.grid import NAMES, expand_grid, in_sweep_order, is_run, jobs_of, search_spec
from gloss.experiments.requested import requested_runs
from gloss.records.run_folder import run_folder
from gloss.resolve import resolve
from gloss.runtime.compose import sweep_of
from gloss.runtime.overrides import prepared
from gloss.search.best_values import apply_tuned

RUNS = {"table2": 300, "table3": 100, "table6": 90}  # with the default seeds; these three are the paper's
RUNS |= {"fig2": 135, "fig3a": 135, "fig3b": 90, "fig4": 1, "fig5": 10, "fig6": 4, "fig7": 21}
RUNS |= {"few_shot": 150, "label_noise": 96, "graph_noise": 102, "shift": 36, "graph_size": 72, "variant": 180}


@pytest.fixture(autouse=True)
def no_overlays(tmp_path, monkeypatch):
    """Ignore the overlays of searches in this folder."""
    monkeypatch.chdir(tmp_path)  # where the default outputs folder is


def test_every_experiment_has_its_number_of_runs():
    files = {path.stem for path in (CONFIG_DIR / "experiment").rglob("*.yaml")}
    assert len(RUNS) == 16 and files - {"demo"} == set(NAMES) == set(RUNS)  # the demo is neither a table nor a figure
    found = {name: sum(len(cell.seeds) for cell in expand_grid(name)) for name in NAMES}
    assert found == RUNS


def test_figure_5_draws_the_runs_of_table_3_which_keep_their_embeddings():
    given = (["loss=scl,triplet,cosine"], ["loss=gloss_o", "loss.sigma=0.5"])
    table3, fig5 = ({c.folder(1): c for x in given for c in expand_grid(name, x)} for name in ("table3", "fig5"))
    assert len(fig5) == 8 and set(fig5) < set(table3)
    assert all(c.config.trainer.save_embeddings for c in (*table3.values(), *fig5.values()))


@pytest.mark.parametrize("name", ["fig3b", "shift", "variant"])
def test_cells_equal_the_configurations_of_the_command_line(name):
    given = ["model=tiny,minilm", "seed=2,3", "trainer.max_epochs=3", "loss=gloss_sqrt"]
    cells = {(c.dataset, c.model, c.mode, c.variant, str(c.point)): c for c in expand_grid(name, given)}
    arguments = in_sweep_order(name, [f"experiment={name}", *given])
    swept = [[f"{a.partition('=')[0]}={v}" for v in a.partition("=")[2].split(",")] for a in arguments]
    num_jobs = 0
    with initialize_config_dir(str(CONFIG_DIR), version_base=None):
        jobs = list(itertools.product(*swept))
        for job in jobs[:: max(1, len(jobs) // 6)]:  # a sample, because composing all jobs takes a minute
            cfg = resolve(apply_tuned(compose("train", overrides=list(job)), job))
            (cell,) = [c for c in cells.values() if c.folder(cfg.seed) == run_folder(cfg)]
            assert cfg.seed in cell.seeds and cell.config.trainer == cfg.trainer
            num_jobs += 1
    assert num_jobs >= 2 and len(jobs) == 2 * len(cells)


def test_cells_keep_the_sweep_order_for_any_order_of_arguments():
    cells = expand_grid("table2", ["loss=gloss_sqrt,ce", "seed=1", "dataset=r8,mr", "model=bert"])
    expected = [("r8", "gloss_sqrt"), ("r8", "ce"), ("mr", "gloss_sqrt"), ("mr", "ce")]
    assert [(c.dataset, c.loss) for c in cells] == expected
    seeds = [a for a in in_sweep_order("table2", ["-m", "experiment=table2", "dataset=mr", "seed=4,5"]) if "=" in a]
    assert seeds[:2] == ["seed=4,5", "dataset=mr"]  # one seed after the other


def test_of_a_key_given_twice_the_last_value_counts():
    [spec] = expand_grid("fig4", ["model=minilm", "loss.sigma=1", "seed=1,2", "seed=3"])
    assert spec.seeds == (3,)


def test_points_are_the_swept_keys_outside_the_identity():
    swept = expand_grid("fig2", ["dataset=mr", "loss.lam=0.2,0.4", "trainer.lr=1e-5"])
    assert [c.point for c in swept] == [{"loss.lam": 0.2}, {"loss.lam": 0.4}]
    assert expand_grid("table2", ["dataset=mr", "model=bert", "loss=ce"])[0].point == {}
    overridden = expand_grid("table2", ["dataset=mr", "model=bert", "loss=ce", "trainer.lr=1e-5,2e-5"])
    assert [c.point for c in overridden] == [{"trainer.lr": 1e-5}, {"trainer.lr": 2e-5}]


def test_fig7_has_its_offsets_and_shift_its_other_domains():
    ablations = {c.point["ablation"]: c.config.ablation for c in expand_grid("fig7", ["loss=gloss_sqrt"])}
    assert (ablations["sigma_half"].sigma_scale, ablations["sigma_double"].sigma_scale) == (0.5, 2.0)
    assert [ablations[k].lam_offset for k in ("lam_minus", "lam_plus", "none")] == [-0.1, 0.1, 0.0]
    assert [ablations[k].gamma_offset for k in ("gamma_minus", "gamma_plus", "none")] == [-0.1, 0.1, 0.0]
    others = {c.dataset: c.config.ablation.test_on for c in expand_grid("shift", ["loss=ce"])}
    assert set(others) == {f"snippets_{name}" for name in ("movie", "product", "news", "tweets")}
    assert all({name, *rest} == set(others) and len(rest) == 3 for name, rest in others.items())
    pair = {c.dataset: c.config.ablation.test_on for c in expand_grid("shift", ["loss=ce", "dataset=mr,sst2"])}
    assert pair == {"mr": "sst2", "sst2": "mr"}


def test_experiments_share_equal_runs():
    given = ["dataset=mr", "loss=gloss_sqrt", "seed=1"]
    table2 = expand_grid("table2", [*given, "model=bert"])[0]
    assert table2.config_hash in {c.config_hash for c in expand_grid("label_noise", given)}
    assert table2.config_hash in {c.config_hash for c in expand_grid("graph_noise", given)}
    assert table2.config_hash not in {c.config_hash for c in expand_grid("few_shot", given)}


def test_graph_noise_has_its_noise_levels_and_controls():
    cells = expand_grid("graph_noise", ["dataset=mr", "loss=ce,gloss_sqrt", "seed=1"])
    found = {(c.loss, c.mode, c.config.ablation.graph_noise, c.config.ablation.graph_shuffle) for c in cells}
    noisy = {("gloss_sqrt", "integrated", noise, False) for noise in (0.0, 0.01, 0.02, 0.04, 0.08)}
    shuffled = {("gloss_sqrt", mode, 0.0, True) for mode in ("integrated", "standalone")}
    assert len(cells) == len(found) == 9
    assert found == noisy | shuffled | {("ce", "integrated", 0.0, False), ("gloss_sqrt", "standalone", 0.0, False)}


def test_only_excludes_jobs_of_an_experiment():
    only = {"a=1": {"b": 2, "c": 5}, "d=true": {"e": "null"}}
    for job in ("a=1 b=2", "a=1 b=2.0", "a=2 b=3", "b=3", "a=1 c=5", "d=True e=null", "d=False e=rest"):
        assert is_run(job.split(), only), job  # 2.0 equals 2, and Hydra writes True for true
    for job in ("a=1 b=3", "a=1 b=2 c=on", "d=true e=rest"):
        assert not is_run(job.split(), only), job
    few_shot = expand_grid("few_shot", ["dataset=mr", "seed=1", "dataset.train_limit=20"])
    found = [(c.loss, c.config.dataset.unlabeled) for c in few_shot]
    losses = [(loss, None) for loss in ("ce", "gloss_o", "gloss_sqrt", "scl_ce")]
    assert sorted(found, key=str) == sorted([*losses, ("gloss_sqrt", "rest")], key=str)


def test_equal_jobs_count_once():
    given = ["dataset=mr,mr", "loss=scl,scl_ce", "model=bert", "seed=1,1,02,2"]
    assert [(c.loss, c.seeds) for c in expand_grid("table2", given)] == [("scl_ce", (1, 2))]
    asked = [["dataset=mr", "model=bert", "loss=ce", f"seed={seeds}"] for seeds in ("1,2", "2,3")]
    both = requested_runs("table2", asked, Path("x"))
    assert [c.seeds for c in both] == [(1, 2, 3)]


def test_jobs_equal_hydras_sweeper():
    words = ["loss=ce,scl", "seed=1,2", "trainer.lr=1e-4", "loss.lam=choice(0.1,0.3)", "seed=range(3,6)", "+a=b"]
    parsed = OverridesParser.create().parse_overrides(words)
    assert jobs_of(words) == BasicSweeper.split_arguments(parsed, None)[0] and len(jobs_of(words)) == 12


@pytest.mark.parametrize(("name", "given"), [("graph_noise", "variant=paper,released"), ("few_shot", "seed=1,2")])
def test_a_sweep_with_a_further_key_has_the_order_of_hydras_sweeper(name, given):
    """Hydra puts the sweep of the file before the command line; jobs are left out by their number."""
    words = [f"experiment={name}", "trainer.lr=1e-5,2e-5", given]
    sweep = [f"{key}={values}" for key, values in sweep_of(name).items()]
    parsed = OverridesParser.create().parse_overrides([*sweep, *words])
    by_key = {o.get_key_element(): o for o in parsed}  # the last value of a key, at its first place, as Hydra does
    expected = BasicSweeper.split_arguments(list(by_key.values()), None)[0]
    assert jobs_of(in_sweep_order(name, words)) == expected and len(expected) > 12


def test_a_sweep_of_the_command_line_excludes_the_same_jobs(tmp_path, monkeypatch):
    monkeypatch.setenv("YES", "1")  # without it the sweep is refused, because it takes days
    seen = []

    def task(cfg, is_sweep):
        seen.append((cfg.loss.name, cfg.mode, cfg.ablation.graph_noise, cfg.ablation.graph_shuffle))

    given = ["dataset=mr", "loss=ce,gloss_sqrt", "seed=1", "ablation.graph_noise=0,0.04"]
    assert main(task, ["-m", "experiment=graph_noise", *given, f"paths.outputs={tmp_path}"]) == 0
    cells = expand_grid("graph_noise", given)
    assert sorted(seen) == sorted(
        (c.loss, c.mode, c.config.ablation.graph_noise, c.config.ablation.graph_shuffle) for c in cells
    )
    assert len(seen) == 6


def test_a_selection_of_only_excluded_jobs_gives_an_error(monkeypatch, tmp_path, capsys):
    with pytest.raises(ConfigError, match="experiment=few_shot leaves this out: .*loss=ce.* with loss=gloss_sqrt"):
        expand_grid("few_shot", ["loss=ce", "dataset.unlabeled=rest"])
    monkeypatch.setenv("YES", "1")  # so that no plan of the sweep refuses it before
    words = ["-m", "experiment=few_shot", "loss=ce", "seed=1", "dataset.unlabeled=rest", f"paths.outputs={tmp_path}"]
    for flags in ([], ["--cfg", "job"]):
        assert main(lambda *_: pytest.fail("a job runs"), [*words, *flags]) == 2
        assert "experiment=few_shot leaves this out: " in capsys.readouterr().err


def test_gloss_o_cannot_run_before_its_search(tmp_path):
    given = ["dataset=mr", "model=bert", "loss=gloss_o", f"paths.tuned={tmp_path}"]
    (cell,) = expand_grid("table2", given)
    assert (cell.can_run, cell.config_hash, cell.folder(1)) == (False, None, None)
    values = {"trainer": {"lr": 1e-5}, "loss": {"sigma": 0.7, "lam": 0.9, "gamma": 0.5}}
    source = {"study": "s", "value": 80.0, "train_limit": None, "max_epochs": 200, "train_examples": 6397}
    (tmp_path / "mr-bert-integrated-gloss_o.yaml").write_text(yaml.safe_dump({**values, "tuned": source}))
    (cell,) = expand_grid("table2", given)
    assert cell.can_run and cell.config.loss.sigma == 0.7 and cell.config.trainer.lr == 1e-5
    assert cell.folder(4) == run_folder(resolve(_with_seed(cell.config, 4)))
    swept = expand_grid("fig2", given)  # the swept λ has priority over the searched one
    assert [c.config.loss.lam for c in swept] == pytest.approx([0.1 * k for k in range(1, 10)])
    assert {c.config.loss.sigma for c in swept} == {0.7}


def _with_seed(cfg, seed):
    cfg.seed = seed
    return cfg


def test_searches_ignore_the_settings_of_the_experiment():
    cell = expand_grid("few_shot", ["dataset=mr", "loss=ce", "dataset.train_limit=20"])[0]
    search = search_spec(cell, ["dataset=mr", "loss=ce", "dataset.train_limit=20", "trainer.max_epochs=7"])
    trainer = search.config.trainer
    assert search.config.dataset.train_limit is None and (trainer.batch_size, trainer.max_epochs) == (128, 7)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("table8", [], "few_shot, fig2, fig3a"),
        ("table2", ["model=berd"], "model=berd is not allowed: expected one of bert, "),
        ("table2", ["trainer.epochs=3"], "there is no key trainer.epochs"),
        ("table2", ["trainer.max_epochs=no"], "trainer.max_epochs=no is not allowed"),
        ("table3", ["loss=ce"], "loss=ce mode=standalone is not allowed"),
        ("table2", ["seed=a"], "seed"),
        ("few_shot", ["dataset.train_limit=x"], "train_limit"),
    ],
)
def test_invalid_overrides_give_one_message(name, overrides, message):
    with pytest.raises(ConfigError) as error:
        expand_grid(name, prepared(overrides, known_options(TuneConfig), is_sweep=True))
    assert message in str(error.value)
