"""The configuration files in `configs/`: recipes, costs and published results."""

import inspect
import re
from pathlib import Path

import pytest

import tcvit_jax as tc
from tcvit_jax import config, models
from tcvit_jax.assembly import build_model
from tcvit_jax.reducers import REDUCERS
from tcvit_jax.training import optimizer
from tcvit_jax.training.reduction_warmup import stages

ROOT = Path(__file__).parent.parent
CONFIGS = ROOT / "configs"
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "docs" / "results.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = sorted(CONFIGS.glob("[!_]*.py"))
MODULES = {path.stem: config.load_module(path) for path in FILES}
RECIPES = ("scratch", "finetune", "selfdistill")
DENSE = {"deit_ti": 192, "deit_s": 384, "deit_b": 768, "lvvit_s": 384}
METHODS = {"gtp": "GTP-ViT", "tcvit": "TC-ViT", "evit": "EViT", "tome": "ToMe"}
ROWS = [f"{dense}_{method}" for dense in DENSE for method in METHODS]
# Every file, with each of its recipes.
RUNS = [
    *((stem, None) for stem, module in MODULES.items() if not inspect.signature(module.get_config).parameters),
    *((stem, recipe) for stem in ROWS for recipe in RECIPES),
]
# Steps per epoch of ImageNet-1k (1,281,167 images), by batch size.
STEPS_PER_EPOCH = {1024: 1251.1, 2048: 625.6}


def load(stem, recipe=None, overrides=()):
    suffix = f":{recipe}" if recipe else ""
    return config.load(f"{CONFIGS / stem}.py{suffix}", overrides)


def model_of(stem, recipe=None, overrides=()):
    run_config = load(stem, recipe, overrides)
    return build_model(run_config.model, run_config.reduction)


def docstring(stem):
    return inspect.cleandoc(MODULES[stem].__doc__)


def test_each_row_is_one_file():
    assert len(list(CONFIGS.glob("*.py"))) <= 26
    assert {stem for stem, _ in RUNS} == set(MODULES)


@pytest.mark.parametrize(("stem", "recipe"), RUNS)
def test_every_recipe_builds_its_model(stem, recipe):
    run_config = load(stem, recipe)
    model = build_model(run_config.model, run_config.reduction)
    assert run_config.run.workdir == (f"runs/{stem}" if recipe in (None, "scratch") else f"runs/{stem}_{recipe}")
    mean = config.read(CONFIGS / f"{stem}.py", recipe).data.mean or models.preprocessing(model.variant).mean
    assert len(mean) == model.in_chans


@pytest.mark.parametrize("stem", ROWS)
def test_scratch_is_the_default_recipe(stem):
    path = CONFIGS / f"{stem}.py"
    assert config.read(path).to_dict() == config.read(path, "scratch").to_dict()
    assert load(stem) == load(stem, "scratch")


@pytest.mark.parametrize("stem", ROWS)
def test_unknown_recipe_suggests_the_nearest(stem):
    with pytest.raises(tc.InputError) as error:
        load(stem, "finetun")
    assert str(error.value) == "unknown recipe 'finetun': did you mean 'finetune'?"


@pytest.mark.parametrize(("stem", "recipe"), [(stem, recipe) for stem, recipe in RUNS if recipe])
def test_recipes_train_as_published(stem, recipe):
    dense, method = stem.rsplit("_", 1)
    row = MODULES[stem].ROW
    values = config.read(CONFIGS / f"{stem}.py", recipe)
    run_config = load(stem, recipe)
    model = build_model(run_config.model, run_config.reduction)
    per_epoch = STEPS_PER_EPOCH[values.batch_size]
    total = round(values.epochs * per_epoch)
    rate = optimizer.learning_rate(run_config.optimizer, total, per_epoch, values.batch_size)
    schedules = stages(run_config.reduction_warmup, model, total, per_epoch)
    assert schedules[-1].removed == model.removed
    assert (len(schedules) > 1) == (method == "evit" and recipe == "scratch")
    assert (values.label_smoothing, values.random_erasing) == (0.1, 0.25)
    assert (values.mixing.mixup, values.mixing.cutmix) == ((0, 0) if dense == "lvvit_s" else (0.8, 1.0))
    assert model.dtype == "bfloat16"
    if recipe == "scratch":
        assert (values.batch_size, values.epochs, values.weights, values.distill.teacher) == (1024, 300.0, "", "")
        assert model.drop_path_rate == 0.1
        assert float(rate(0)) == pytest.approx(1e-6)
        assert float(rate(round(10 * per_epoch))) == pytest.approx(1.6e-3 if dense == "lvvit_s" else 1e-3, rel=0.01)
        assert float(rate(total)) == pytest.approx(1e-5)
        assert values.mixing.mix_token == (values.token_labels > 0) == (dense == "lvvit_s")
        assert values.optimizer.weight_decay == 0.05
    else:
        assert (values.batch_size, values.epochs, values.weights) == (2048, 30.0, row.dense.weights)
        assert model.drop_path_rate == 0
        assert (float(rate(0)), float(rate(total))) == (pytest.approx(2e-5), pytest.approx(2e-6))
        assert (values.mixing.mix_token, values.token_labels) == (False, 0)
        assert values.optimizer.weight_decay == 1e-6
        teacher = values.distill.teacher, values.distill.kind, values.distill.weight, values.distill.tokens
        assert teacher == (("dense", "soft", 0.5, 0.5) if recipe == "selfdistill" else ("", "soft", 0.5, 0.0))


@pytest.mark.parametrize("stem", ROWS)
def test_rows_are_the_published_models(stem):
    dense, method = stem.rsplit("_", 1)
    row = MODULES[stem].ROW
    assert row.method == METHODS[method]
    models_of_row = [model_of(stem, recipe) for recipe in RECIPES]
    for model in models_of_row:
        assert model.embed_dim == DENSE[dense]
        assert model.reducer == REDUCERS[method]()
        assert model.removed == models_of_row[0].removed
    model = models_of_row[0]
    assert model.removed == ((row.schedule,) * model.depth if isinstance(row.schedule, int) else tuple(row.schedule))
    ledger = tc.describe(model)
    assert (round(ledger.gmacs, 3), round(ledger.gmacs_dense, 3)) == (row.gmacs, row.dense.gmacs)
    # In each block that removes tokens, EViT adds one token fused from them.
    fused = [int(method == "evit" and count > 0) for count in model.removed]
    tokens = [196 - sum(model.removed[:index]) + sum(fused[:index]) for index in range(model.depth + 1)]
    assert list(ledger.tokens) == tokens
    if method == "evit":
        keep_rates = [1 - count / tokens[index] for index, count in enumerate(model.removed) if count]
        assert keep_rates == [pytest.approx(0.7, abs=0.01)] * 3


@pytest.mark.parametrize("stem", ROWS)
def test_published_results_match_the_row(stem):
    row = MODULES[stem].ROW
    assert {*row.published, *row.related} <= {"off_the_shelf", *RECIPES}
    for result in [result for results in row.published.values() for result in results]:
        assert result.method == row.method
        # A larger difference from the dense model indicates a typing error.
        assert row.dense.top1 - 1.5 < result.top1 < row.dense.top1 + 0.5
        # Sources round to one decimal.
        assert result.gmacs is None or abs(result.gmacs - row.gmacs) < 0.05
    for result in [result for results in row.related.values() for result in results]:
        assert result.method != row.method or abs(result.gmacs - row.gmacs) > 0.05
        assert 0 < result.gmacs < row.dense.gmacs


@pytest.mark.parametrize("stem", ["deit_imagenet", "lvvit_imagenet"])
def test_shared_configurations_build_the_dense_model(stem):
    dense = MODULES["deit_s_gtp" if stem.startswith("deit") else "lvvit_s_gtp"].ROW.dense
    model = model_of(stem)
    assert model == models.condense(model_of(f"{'deit_s' if stem.startswith('deit') else 'lvvit_s'}_gtp"))
    assert round(tc.describe(model).gmacs, 3) == dense.gmacs


def test_documented_costs_match_the_rows():
    pattern = r"\| (\S+), (\d+) \| ([\d.]+) of ([\d.]+) \| ([\d.]+)% \| `configs/(\w+)\.py` \|"
    lines = re.findall(pattern, RESULTS)
    assert sorted(line[-1] for line in lines) == sorted(
        f"deit_{size}_{method}" for size in ("ti", "s", "b") for method in ("gtp", "tcvit")
    )
    for method, removed, gmacs, dense, savings, stem in lines:
        row = MODULES[stem].ROW
        assert method in (row.method, row.method.removesuffix("-ViT"))
        assert (int(removed), float(gmacs), float(dense)) == (row.schedule, row.gmacs, row.dense.gmacs)
        assert savings == f"{100 * tc.describe(model_of(stem)).savings:.1f}"


@pytest.mark.parametrize("stem", ["digits_dense", "digits_gtp", "digits_tcvit", "fashion_dense"])
def test_gmacs_of_small_models_match_their_results(stem):
    result = MODULES[stem].RESULT
    assert round(tc.describe(model_of(stem)).gmacs, 5) == result.gmacs


@pytest.mark.parametrize("stem", ["digits_dense", "digits_gtp", "digits_tcvit"])
def test_documented_results_on_digits_match_the_configs(stem):
    result = MODULES[stem].RESULT
    correct, images = re.findall(r"\d+", result.note)[:2]
    assert round(100 * int(correct) / int(images), 2) == result.top1
    assert f"| {result.method} | {result.top1:.2f} % ({correct}/{images}) | {result.gmacs:.5f} |" in RESULTS


def test_readme_table_has_the_documented_results_of_every_method():
    percent, cosine = r"(\d+\.\d)", r"(\d\.\d{4})"
    name = r"^\| ([\w ,-]+) \|"
    rows = re.findall(rf"{name} {percent} \| {percent} \| {percent} \| {cosine} \|$", README, re.MULTILINE)
    value = rf" {percent} \| [^|]*\|"
    documented = re.findall(rf"{name}{value}{value}{value} {cosine} \| [\d.]+ \|$", RESULTS, re.MULTILINE)
    assert rows == documented
    methods = {re.sub(r"\W", "", row[0]).lower() for row in rows}
    assert set(REDUCERS) - {"cross"} <= methods


@pytest.mark.parametrize("method", ["gtp", "tcvit", "tome", "evit"])
def test_documented_results_of_fashion_finetuning_match_the_configs(method):
    finetune = MODULES["fashion_finetune"]
    before, after = finetune.OFF_THE_SHELF[method], finetune.FINETUNED[method]
    gmacs = round(tc.describe(model_of("fashion_finetune", overrides=[f"--config.reducer.name={method}"])).gmacs, 5)
    # EViT was measured with keep rates that were rounded to the nearest number of tokens.
    gmacs = {("evit", 0.00835): 0.00836}.get((method, gmacs), gmacs)
    assert (before.gmacs, after.gmacs) == (gmacs, gmacs)
    assert re.search(rf"\| {after.method} \| {before.top1:.2f} \(.*\| {after.top1:.2f} \(.*\| {gmacs:.5f} \|", RESULTS)


@pytest.mark.parametrize("method", ["gtp", "tcvit"])
def test_documented_results_of_fashion_self_distillation_match_the_configs(method):
    result = MODULES["fashion_selfdistill"].SELFDISTILLED[method]
    model = model_of("fashion_selfdistill", overrides=[f"--config.reducer.name={method}"])
    assert round(tc.describe(model).gmacs, 5) == result.gmacs
    assert re.search(rf"\| {result.method} \| with self-distillation \|.*\| {result.top1:.2f} % \|", RESULTS)


@pytest.mark.parametrize("stem", ["fashion_finetune", "fashion_selfdistill"])
def test_fashion_recipes_start_from_the_dense_model(stem):
    values = config.read(CONFIGS / f"{stem}.py")
    assert (values.weights, values.epochs) == ("runs/fashion_dense", 1.0)
    assert values.distill.teacher == ("dense" if stem == "fashion_selfdistill" else "")


@pytest.mark.parametrize("stem", MODULES)
def test_commands_in_docstrings_name_their_file(stem):
    commands = re.findall(r"^python (\w+)\.py --config (\S+)", docstring(stem), flags=re.MULTILINE)
    names = [(script, name.removeprefix(f"configs/{stem}.py")) for script, name in commands]
    if stem in ROWS:
        assert names == [("eval", ""), ("train", ""), ("train", ":finetune"), ("train", ":selfdistill")]
        weights = re.findall(r"weights[ =](\S+)", docstring(stem))
        assert weights == [MODULES[stem].ROW.dense.weights] * 3
    else:
        assert names == ([] if stem.endswith("_imagenet") else [("train", "")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_existing_files_and_recipes(page):
    for stem, recipe in re.findall(r"configs/(\w+)\.py(?::(\w+))?", page.read_text()):
        assert stem in MODULES
        assert not recipe or (stem in ROWS and recipe in RECIPES)
