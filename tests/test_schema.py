"""Parameters: strict names, types and ranges, and the order in which they come together."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from fer_core import schema
from fer_core.schema import ParameterError, Params


def refuse(name: str, value: object, *words: str) -> None:
    with pytest.raises(ParameterError) as fault:
        schema.check({name: value}, "params/x/y.yaml")
    for word in ("params/x/y.yaml", *words):
        assert word in str(fault.value)
    assert "\n" not in str(fault.value)


def test_unknown_parameter_is_refused_with_nearest_name() -> None:
    refuse("learning_rte", 0.1, "learning_rte", "did you mean learning_rate?")


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("epochs", 2.5, "a whole number"),
        ("epochs", True, "a whole number"),
        ("epochs", "many", "a whole number"),
        ("batch_norm", 1, "true or false"),
        ("batch_norm", "yes", "true or false"),
        ("network", 3, "text"),
        ("seeds", 3, "a list"),
        ("seeds", [1, 1], "twice"),
        ("seeds", [], "list of whole numbers"),
        ("seeds", [0.5], "list of whole numbers"),
        ("arms", [], "a map"),
        ("learning_rate", None, "a number"),
    ],
)
def test_wrong_type_is_refused(name: str, value: object, word: str) -> None:
    refuse(name, value, name, word)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("epochs", 0, "at least 1"),
        ("learning_rate", 0, "above 0"),
        ("learning_rate", float("nan"), "finite"),
        ("learning_rate", float("inf"), "finite"),
        ("dropout", 1.0, "at most 0.95"),
        ("dropout", -0.1, "at least 0"),
        ("test_views", 3, "1, 2 or 10"),
        ("threads", 0, "at least 1"),
        ("threads", "all", "auto"),
        ("optimizer", "sdg", "did you mean sgd?"),
        ("network", "basic_cn", "did you mean basic_cnn?"),
    ],
)
def test_value_out_of_range_is_refused(name: str, value: object, word: str) -> None:
    refuse(name, value, name, word)


def test_exponent_that_yaml_reads_as_text_is_refused_with_the_number_to_write(tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text("learning_rate: 1e-3\n")
    with pytest.raises(ParameterError, match=r"is the text '1e-3'.*write 0.001"):
        schema.check(schema.load_yaml(path), "page.yaml")


def test_duplicate_yaml_key_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text("epochs: 2\nseeds: [0]\nepochs: 3\n")
    with pytest.raises(ParameterError, match=r"page\.yaml, line 3: epochs stands twice"):
        schema.load_yaml(path)


def test_duplicate_key_in_a_nested_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "page.yaml"
    path.write_text("arms:\n  a: {page: x}\n  a: {page: y}\n")
    with pytest.raises(ParameterError, match="line 3: a stands twice"):
        schema.load_yaml(path)


@pytest.mark.parametrize("text", ["a: {{x}}\n", "[1, 2]: 3\n"])
def test_a_key_that_is_no_name_is_refused_with_its_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match="line 1: a name is expected"):
        schema.load_yaml(path)


def test_what_an_editor_puts_beside_pages_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    (tmp_path / "params/01_net").mkdir(parents=True)
    for name in ("default.yaml", "._default.yaml"):
        (tmp_path / "params/01_net" / name).touch()
    (tmp_path / "params/01_net/.#default.yaml").symlink_to("nobody@nowhere")
    assert schema.page_names() == ["01_net/default"]


def test_a_yaml_of_the_study_is_named_by_its_place_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    (tmp_path / "params").mkdir()
    (tmp_path / "params/sample.yaml").write_text("- 1")
    with pytest.raises(ParameterError, match=r"^params/sample\.yaml: "):
        schema.load_yaml(tmp_path / "params/sample.yaml")


@pytest.mark.parametrize("text", ["epochs: [1\n", "- 1\n- 2\n", "epochs: 2\n\tseeds: [0]\n", "just words"])
def test_what_is_no_map_is_refused_in_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=r"page\.yaml"):
        schema.load_yaml(path)


def test_null_switches_off_only_what_can_be_off() -> None:
    assert schema.check({"gradient_clip": None}, "x") == {"gradient_clip": None}
    refuse("epochs", None, "epochs")


def test_int_is_welcome_where_a_float_is_wanted() -> None:
    value = schema.check({"learning_rate": 1}, "x")["learning_rate"]
    assert value == 1.0
    assert isinstance(value, float)


def test_set_comes_last_and_is_checked() -> None:
    assert schema.parse_set("epochs=3 learning_rate=0.02 seeds=[0,1]") == {
        "epochs": 3,
        "learning_rate": 0.02,
        "seeds": (0, 1),
    }
    for text in ("epochs", "epoch=2", "epochs=0", "epochs=2 epochs=3"):
        with pytest.raises(ParameterError, match="SET"):
            schema.parse_set(text)


def test_sample_ceilings_lower_but_never_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "sample_ceilings", lambda: {"epochs": 3, "seeds": 2})
    assert schema.resolve({"epochs": 20, "seeds": (4, 5, 6)}, sample=True).epochs == 3
    assert schema.resolve({"epochs": 20, "seeds": (4, 5, 6)}, sample=True).seeds == (4, 5)
    assert schema.resolve({"epochs": 1}, sample=True).epochs == 1
    assert schema.resolve({"epochs": 20}, sample=False).epochs == 20
    assert schema.resolve({"epochs": 20}, sample=True, set_values={"epochs": 9}).epochs == 9


def test_run_values_leave_out_defaults_and_what_does_not_bear_on_training() -> None:
    plain = schema.run_values(Params())
    assert plain == {}
    assert schema.run_values(Params(learning_rate=0.02, score_test=True, seeds=(1, 2), time_limit_minutes=3.0)) == {
        "learning_rate": 0.02
    }


def _notebook(cell: str) -> str:
    cells = [{"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": cell}]
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small study: one notebook, one page."""
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params" / "01_net").mkdir(parents=True)
    (tmp_path / "notebooks" / "01_net.ipynb").write_text(_notebook("learning_rate = 0.02  # why\nseeds = [0, 1]\n"))
    (tmp_path / "params" / "01_net" / "default.yaml").write_text("# why\nepochs: 4\n")
    return tmp_path


def test_layers_come_in_order(tree: Path) -> None:
    page = schema.load_page("01_net/default")
    params = schema.resolve_page(page, sample=False, set_values={"epochs": 7, "examples": 3})
    assert (params.learning_rate, params.epochs, params.seeds) == (0.02, 7, (0, 1))
    assert params.examples == Params().examples  # a parameter of other notebooks does not touch this page


def test_page_of_an_unknown_name_is_refused_with_the_nearest(tree: Path) -> None:
    with pytest.raises(ParameterError, match="did you mean 01_net/default"):
        schema.load_page("01_net/defalt")


def test_parameter_that_the_notebook_does_not_have_is_refused(tree: Path) -> None:
    (tree / "params" / "01_net" / "default.yaml").write_text("# why\narms: {}\n")
    with pytest.raises(ParameterError, match="unknown parameter arms"):
        schema.load_page("01_net/default")


@pytest.mark.parametrize("line", ["print(1)", "epochs = batch_size = 3", "epochs: int", "params.epochs = 3"])
def test_parameters_cell_with_more_than_literals_is_refused(tree: Path, line: str) -> None:
    (tree / "notebooks" / "01_net.ipynb").write_text(_notebook(f"learning_rate = 0.1\n{line}\n"))
    with pytest.raises(ParameterError, match="more than `name = literal`"):
        schema.notebook_defaults("01_net")


def test_a_parameters_cell_that_computes_or_a_broken_notebook_is_told_by_name(tree: Path) -> None:
    path = next((tree / "notebooks").glob("*.ipynb"))
    for broken, told in (
        (_notebook("epochs = 1 / 2"), "`epochs = 1 / 2` is no literal"),
        (_notebook("epochs ="), "is no Python"),
        ("<<<<<<< HEAD\n", "is no notebook any more"),
    ):
        path.write_text(broken)
        with pytest.raises(ParameterError, match=f"notebooks/{path.name}.*{told}"):
            schema.notebook_defaults(path.stem)


def test_arm_takes_its_base_page_and_what_it_sets(tree: Path) -> None:
    runs = schema.arm_params({"page": "01_net/default", "set": {"epochs": 9}}, (3, 4), sample=False)
    assert [(run.seed, run.epochs, run.learning_rate) for run in runs] == [(3, 9, 0.02), (4, 9, 0.02)]
    with pytest.raises(ParameterError, match="unknown parameter epohcs"):
        schema.arm_params({"page": "01_net/default", "set": {"epohcs": 9}}, (3,), sample=False)


def test_imports_go_one_way_and_readme_says_which() -> None:
    readme = (schema.ROOT / "README.md").read_text(encoding="utf-8")
    told = readme.partition("`fer_core`, in the order")[2].partition("\n\n")[0]
    order = [*re.findall(r"`(\w+)`", told), "__main__"]
    package = Path(schema.__file__).parent
    for path in package.glob("*.py"):
        if path.stem == "__init__":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module == "fer_core":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fer_core."):
                names = [(node.module or "").split(".")[1]]
            for name in names:
                assert order.index(name) < order.index(path.stem), f"{path.stem} imports {name}"


def test_only_training_modules_import_torch_at_module_level() -> None:
    allowed = {"augment", "training", "watch", "explain", "notebook", "predict"}
    for path in Path(schema.__file__).parent.glob("*.py"):
        top = [node for node in ast.parse(path.read_text()).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names} | {
            (node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)
        }
        assert "torch" not in names or path.stem in allowed, path.stem


def test_claim_about_fer2013_does_not_apply_to_other_classes() -> None:
    about = Params(arms={"a": {"page": "x"}}, needs_fer2013=True)
    assert schema.applies(about, schema.EMOTIONS)
    assert not schema.applies(about, ("cat", "dog"))
    assert schema.applies(about.replace(needs_fer2013=False), ("cat", "dog"))
    assert schema.applies(Params(), ("cat", "dog"))


def test_general_defaults_stay_as_they_are() -> None:
    """A key leaves out what is at its default: another default would give runs the keys of runs that they are not."""
    stated = {name: getattr(Params(), name) for name, spec in schema.SPECS.items() if spec.group in schema.RUN_GROUPS}
    known = Path(__file__).with_name("general_defaults.json")
    assert json.loads(known.read_text()).items() <= stated.items(), "state another value in notebooks and YAMLs instead"
