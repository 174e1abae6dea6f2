"""The committed notebooks and the pages' YAMLs keep the house's rules; nothing is executed here."""

import ast
import dataclasses
import json
import re

import nbformat
import pytest

from fer_core import analysis, claims, report, schema

NOTEBOOKS = sorted(path.stem for path in (schema.ROOT / "notebooks").glob("*.ipynb"))
PAGES = schema.page_names()
TRAINING = ("01_basic_cnn", "02_batch_norm", "03_dropout", "04_complex_cnn", "06_final", "07_beyond")
MAY_SCORE_TEST = {
    *(f"{notebook}/default" for notebook in TRAINING[:4]),
    *(page for page in PAGES if page.startswith(("06_final/", "07_beyond/"))),
    "05_analysis/leaked_copies",
}
STUDY_PAGES = {
    "00_exploration/default",
    "01_basic_cnn/lr_0_001",
    *(f"05_analysis/{claim}" for claim in ("initialisation", "learning_rate", "batch_norm", "dropout", "depth")),
    *(f"05_analysis/{claim}" for claim in ("transforms", "half_turn", "schedule_and_clipping", "class_weights")),
    *(f"05_analysis/{claim}" for claim in ("epochs", "torn_copies", "leaked_copies", "broken_dataset", "summary")),
    *(f"06_final/{page}" for page in ("all_fixes", "rare_transforms", "patience_1", "from_the_claims")),
    *(f"{notebook}/default" for notebook in (*TRAINING[:4], "07_beyond")),
}


def read(notebook):
    """Without the cell for Colab and Kaggle, which tests/test_bootstrap.py holds."""
    return nbformat.reads(json.dumps(schema.read_notebook(notebook)), 4)


def code_cells(notebook):
    return [cell for cell in read(notebook).cells if cell.cell_type == "code"]


def tagged(notebook, tag):
    return [cell for cell in read(notebook).cells if tag in cell.metadata.get("tags", [])]


def yaml_text(page):
    return (schema.ROOT / "params" / f"{page}.yaml").read_text(encoding="utf-8")


def test_the_eight_notebooks_are_there():
    assert [name[:2] for name in NOTEBOOKS] == ["00", "01", "02", "03", "04", "05", "06", "07"]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_is_valid_and_without_outputs(notebook):
    found = read(notebook)
    nbformat.validate(found)
    assert (found.nbformat, found.nbformat_minor) == (4, 5)
    assert found.metadata.kernelspec.name == "python3"
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(notebook))
    assert len({cell.id for cell in found.cells}) == len(found.cells)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_cells_are_short_and_hold_no_definitions_or_loops(notebook):
    refused = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.For, ast.While, ast.With, ast.Try, ast.If)
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)  # fails on magics and shell lines too
        assert not [node for node in ast.walk(tree) if isinstance(node, refused)], cell.source
        if "parameters" not in cell.metadata.get("tags", []):  # a list of parameters is as long as it is
            assert len(cell.source.splitlines()) <= 15, cell.source


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_notebook_imports_the_package_and_names_no_path(notebook):
    for cell in code_cells(notebook):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.ImportFrom):
                assert node.module == "fer_core"
            if isinstance(node, ast.Import):
                assert {name.name for name in node.names} <= {"numpy", "pandas"}
    assert not re.search(r"[\"'\s](/|~/|[A-Z]:\\)\w+", json.dumps(read(notebook)))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_parameters_follow_the_opening_paragraph_each_with_a_comment(notebook):
    opening, parameters = read(notebook).cells[:2]
    assert opening.source.startswith("# ") and "\n\n" in opening.source
    assert tagged(notebook, "parameters") == [parameters]
    lines = parameters.source.splitlines()
    for node in ast.parse(parameters.source).body:
        assert isinstance(node, ast.Assign) and "  # " in lines[node.end_lineno - 1]
        ast.literal_eval(node.value)
    assert schema.notebook_defaults(notebook)


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_one_finding_stands_at_the_end(notebook):
    assert tagged(notebook, "finding") == [read(notebook).cells[-1]]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_prose_holds_no_result(notebook):
    """Shares in prose are the original's, quoted as such, or the literature's, in a table."""
    for cell in read(notebook).cells:
        if cell.cell_type == "markdown":
            for paragraph in cell.source.split("\n\n"):
                if re.search(r"\d ?%", paragraph) and not paragraph.startswith("|"):
                    assert "original" in paragraph or "95 % interval" in paragraph, paragraph


@pytest.mark.parametrize("notebook", TRAINING)
def test_a_training_notebook_shows_everything_that_a_page_owes(notebook):
    source = "\n".join(cell.source for cell in code_cells(notebook))
    for call in ("parameter_table", "sanity_checks", "network_table", "train_or_load", "train_seeds", "gap_sentence"):
        assert f"notebook.{call}(" in source
    for call in ("score_test", "test_table", "confident_mistakes", "least_certain", "attention", "finding"):
        assert f"notebook.{call}(" in source
    for figure in ("loss_curves", "accuracy_curves", "test_intervals", "confusion_matrix", "class_bars", "reliability"):
        assert f"plots.{figure}(" in source


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_single_faces_are_shown_only_with_what_stands_in_for_them(notebook):
    for cell in code_cells(notebook):
        if "_grid(" in cell.source:
            assert "stand_in=" in cell.source or "mean_of=" in cell.source, cell.source


def test_no_cell_gives_a_parameter_another_meaning():
    """A cell run again in Jupyter reads its parameters anew."""
    for name in NOTEBOOKS:
        for cell in code_cells(name):
            if not {"parameters", "injected-parameters"} & set(cell.metadata.get("tags", [])):
                names = {
                    n.id
                    for n in ast.walk(ast.parse(cell.source))
                    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
                }
                assert not names & set(schema.notebook_parameters(name)), cell.source


def test_an_ablation_leaves_out_one_ingredient_of_the_recipe_at_a_time():
    page = schema.load_page("07_beyond/default")
    params = schema.resolve_page(page, False)
    arms = {name: run for name, (run,) in schema.ablation_runs(params, False).items()}
    assert len(arms) == len(params.ablation) + 1 >= 8
    assert arms[schema.WHOLE] == dataclasses.replace(
        params, epochs=params.ablation_epochs, ablation={}, test_by_epoch=False
    )
    values = {name: schema.run_values(run) for name, run in arms.items()}
    whole = values.pop(schema.WHOLE)
    for name, own in values.items():
        changed = {k for k in {*own, *whole} if own.get(k) != whole.get(k)}
        assert changed and changed <= set(params.ablation[name.removeprefix("without ")]), name
    assert len({json.dumps(own, sort_keys=True) for own in values.values()}) == len(values)


def test_an_ablation_of_an_unknown_parameter_is_refused():
    params = schema.Params(ablation={"it": {"label_smoothin": 0.0}})
    with pytest.raises(schema.ParameterError, match=r"ablation, without it: unknown parameter label_smoothin"):
        schema.ablation_runs(params, False)


def test_a_notebook_does_not_look_at_the_test_by_default():
    assert not [name for name in NOTEBOOKS if schema.notebook_defaults(name).get("score_test")]


def test_every_page_of_the_study_is_there():
    assert set(PAGES) >= STUDY_PAGES


@pytest.mark.parametrize("page", PAGES)
def test_page_starts_with_why_it_exists_and_resolves(page):
    assert yaml_text(page).startswith("# ")
    loaded = schema.load_page(page)
    for sample in (False, True):
        params = schema.resolve_page(loaded, sample)
        assert all(runs for runs in schema.page_runs(loaded, params, sample).values())


@pytest.mark.parametrize("page", PAGES)
def test_page_states_only_what_differs(page):
    defaults = schema.notebook_defaults(page.split("/")[0])
    if not page.startswith("05_analysis/"):  # a claim stands whole in its YAML
        assert not [name for name, value in schema.load_page(page).values.items() if defaults.get(name) == value]


def test_only_the_pages_named_in_the_design_score_the_test():
    scoring = {page for page in PAGES if schema.resolve_page(schema.load_page(page), False).score_test}
    assert scoring == MAY_SCORE_TEST & set(PAGES)


@pytest.mark.parametrize("page", [page for page in PAGES if page.startswith("05_analysis/")])
def test_claim_states_question_arms_and_a_rule_that_can_be_judged(page):
    params = schema.resolve_page(schema.load_page(page), False)
    assert params.question
    if page.endswith("/summary"):
        assert not params.arms and not params.rule
        return
    claims.check_rule(params.rule, params.arms, params.metric)
    assert params.claim and len(params.seeds) >= 3
    assert re.search(r"^# .+\n(#.*\n)*rule:", yaml_text(page), re.M), "why these thresholds?"


def test_claims_share_the_seeds_of_the_pages_they_are_based_on():
    for page in PAGES:
        params = schema.resolve_page(schema.load_page(page), False)
        for arm in params.arms.values():
            base = schema.resolve_page(schema.load_page(arm["page"]), False)
            shared = min(len(base.seeds), len(params.seeds))
            assert params.seeds[:shared] == base.seeds[:shared], page


def test_the_sample_lowers_epochs_and_seeds_of_every_page():
    for page in PAGES:
        params = schema.resolve_page(schema.load_page(page), True)
        assert params.epochs <= 3 and len(params.seeds) <= 2


@pytest.mark.parametrize("page", [name for name in PAGES if schema.resolve_page(schema.load_page(name), False).arms])
def test_a_claims_page_compares_the_very_runs_that_the_build_trains(page):
    loaded = schema.load_page(page)
    params = schema.resolve_page(loaded, True)
    assert analysis.Claim(params).wanted == schema.page_runs(loaded, params, True)
    assert params.split_by_seed == any(
        "its own split" in text for text in analysis.Claim(params).arms()["what differs"]
    )


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_page_says_what_is_asked(name):
    first = next(cell for cell in read(name).cells if cell.cell_type == "markdown")
    assert name == "05_analysis" or report.ASKED.search(first.source)[1].endswith("?")
