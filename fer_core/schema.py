"""Every parameter, its type, range and general default; how a page's parameters come together; the errors users see.

A value has one way: general default (here) < the notebook's parameters cell < the page's YAML < params/sample.yaml
(a ceiling, on drawn data only) < SET on the command line.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from operator import ge, gt, le
from pathlib import Path
from typing import Any

EMOTIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
USAGES = ("Training", "PublicTest", "PrivateTest")
RESERVED_NAMES = ("published", "predictions", "sample")
PACKAGE = Path(__file__).resolve().parent
# Notebooks and parameters lie beside the package in the repository, in its folder `study` where a wheel brought it.
ROOT = PACKAGE / "study" if (PACKAGE / "study").is_dir() else PACKAGE.parent
BOOTSTRAP = "bootstrap"  # tag of the cell that only Colab and Kaggle need: no part of the study


class FerError(Exception):
    """Something the user can mend: one sentence with what was expected, what came and the remedy."""


class DataError(FerError):
    """The images or their labels cannot be used as they are."""


class ParameterError(FerError):
    """A parameter is unknown, of the wrong type, or out of range."""


@dataclass(frozen=True)
class Spec:
    """What a parameter may be.

    Attributes
    ----------
    group : which notebooks have it: data, network, training, transforms (a run's), page, claim or exploration.
    kind : the Python type of its value; an int is welcome where a float is wanted.
    low, high : the closed range; `above` the open lower bound.
    choices : the words allowed; with `kind` int, words allowed beside numbers.
    optional : whether None (YAML `null`) switches it off.
    """

    group: str
    kind: type
    about: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    optional: bool = False


def _is(default: Any, group: str, kind: type, about: str, **limits: Any) -> Any:
    metadata = {"spec": Spec(group, kind, about, **limits)}
    if isinstance(default, (dict, list)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def _share(about: str, default: float = 0.0) -> Any:
    return _is(default, "transforms", float, about, low=0, high=1)


@dataclass(frozen=True)
class Params:
    """The parameters of one page, or of one run of it. The general defaults stand here."""

    # fmt: off
    # -- which images
    split: str = _is("random", "data", str, "how training and validation part: at random, by groups of copies, or as published", choices=("random", "group", "official"))
    split_seed: int = _is(0, "data", int, "seed of the sample drawn for training", low=0)
    train_fraction: float = _is(0.75, "data", float, "share of Training + PublicTest that trains", above=0, high=0.99)
    drop_leaked_copies: bool = _is(False, "data", bool, "leave out training images that are copies of test images")
    data_fault: str = _is("none", "data", str, "a fault put into the Dataset on purpose", choices=("none", "labels_out_of_step", "normalised_twice", "same_augmentation"))
    # -- the network
    network: str = _is("basic_cnn", "network", str, "a file in fer_core/networks/")
    width: float = _is(1.0, "network", float, "multiplies every layer's channels", above=0, high=8)
    batch_norm: bool = _is(False, "network", bool, "BatchNorm after every convolution")
    dropout: float = _is(0.0, "network", float, "share dropped after conv layers", low=0, high=0.95)
    dropout_fc: float = _is(0.0, "network", float, "share dropped in the fully connected layer", low=0, high=0.95)
    initialisation: str = _is("default", "network", str, "PyTorch's default, Kaiming, or normal with 0.01", choices=("default", "kaiming", "small_normal"))
    # -- training
    seed: int = _is(0, "training", int, "seed of weights, order, transforms and Dropout", low=0)
    epochs: int = _is(20, "training", int, "passes over the training images", low=1, high=10_000)
    batch_size: int = _is(64, "training", int, "images a step", low=2, high=65_536)
    optimizer: str = _is("adam", "training", str, "sgd has Nesterov momentum", choices=("adam", "adamw", "sgd"))
    learning_rate: float = _is(0.001, "training", float, "the (peak) step size", above=0, high=10)
    momentum: float = _is(0.9, "training", float, "of sgd", low=0, high=0.999)
    weight_decay: float = _is(0.0, "training", float, "L2 (adam, sgd) or decoupled (adamw)", low=0, high=1)
    schedule: str = _is("constant", "training", str, "how the rate goes", choices=("constant", "plateau", "cosine", "one_cycle"))
    plateau_factor: float = _is(0.5, "training", float, "what a plateau multiplies the rate by", above=0, high=0.99)
    plateau_patience: int = _is(3, "training", int, "epochs without a better validation loss before that", low=0)
    warmup_fraction: float = _is(0.0, "training", float, "share of steps over which the rate rises", low=0, high=0.9)
    gradient_clip: float | None = _is(None, "training", float, "largest norm of the gradient; null: none", above=0, optional=True)
    class_weights: bool = _is(False, "training", bool, "weigh the loss by inverse class frequency")
    label_smoothing: float = _is(0.0, "training", float, "probability spread over all classes", low=0, high=0.9)
    ema_decay: float | None = _is(None, "training", float, "moving average of weights, a step; null: none", above=0, high=0.99999, optional=True)
    mixup_alpha: float = _is(0.0, "training", float, "Beta's alpha; 0: no mixup", low=0, high=10)
    cutmix_alpha: float = _is(0.0, "training", float, "Beta's alpha; 0: no cutmix", low=0, high=10)
    early_stopping_patience: int | None = _is(None, "training", int, "epochs without better validation accuracy; null: never", low=1, optional=True)
    select: str = _is("last", "training", str, "the epoch whose weights are kept", choices=("last", "best_validation_accuracy"))
    clean_accuracy: bool = _is(False, "training", bool, "also measure train accuracy without transforms and Dropout")
    test_views: int = _is(1, "training", int, "views averaged for a prediction: 1, 2 (mirror) or 10 (and shifts)", low=1, high=10)
    precision: str = _is("auto", "training", str, "bfloat16 where the processor has it", choices=("auto", "float32", "bfloat16"))
    threads: int | str = _is("auto", "training", int, "CPU threads of a training", low=1, high=1024, choices=("auto",))
    # -- transforms of the training images
    rotation_degrees: float = _is(0.0, "transforms", float, "largest turn either way", low=0, high=180)
    rotation_probability: float = _share("of images turned", 1.0)
    shift_fraction: float = _is(0.0, "transforms", float, "largest shift, as a share of the side", low=0, high=0.5)
    shift_probability: float = _share("of images shifted", 1.0)
    scale_fraction: float = _is(0.0, "transforms", float, "largest change of size", low=0, high=0.9)
    scale_probability: float = _share("of images scaled", 1.0)
    mirror_probability: float = _share("of images mirrored")
    half_turn_probability: float = _share("of images turned upside down")
    light_fraction: float = _is(0.0, "transforms", float, "largest change of brightness and contrast", low=0, high=0.9)
    light_probability: float = _share("of images with changed light", 1.0)
    erase_pixels: int = _is(0, "transforms", int, "side of the erased square", low=0, high=1024)
    erase_probability: float = _share("of images with an erased square")
    # -- a page of runs
    seeds: tuple[int, ...] = _is((0,), "page", list, "one run each; the first is shown in detail")
    score_test: bool = _is(False, "page", bool, "whether this page may look at the test set")
    test_by_epoch: bool = _is(False, "page", bool, "whether its runs write down every epoch's test accuracy, unseen")
    time_limit_minutes: float | None = _is(None, "page", float, "stop a training cleanly after so long; null: never", above=0, optional=True)
    # -- a claim's page
    claim: str = _is("", "claim", str, "the claim in a sentence")
    question: str = _is("", "claim", str, "what is asked, before the runs")
    reading: str = _is("", "claim", str, "what to keep in mind when reading the verdict")
    look_for: str = _is("", "claim", str, "what its curves teach a reader to look for; shows the training loss too")
    arms: dict[str, Any] = _is({}, "claim", dict, "name: {page: base page, set: {what differs}}")
    metric: str = _is("validation_accuracy", "claim", str, "the primary metric")
    rule: list[Any] = _is([], "claim", list, "conditions {arm, against, direction, threshold}: all must hold")
    split_by_seed: bool = _is(False, "claim", bool, "whether each seed draws its own training and validation images")
    needs_fer2013: bool = _is(True, "claim", bool, "whether the claim is about FER2013 itself")
    # -- the worth of each ingredient
    ablation: dict[str, Any] = _is({}, "ablation", dict, "ingredient: {what the recipe is without it}; a run each")
    ablation_epochs: int = _is(20, "ablation", int, "epochs of each of these runs, and of the whole recipe's beside them", low=1, high=10_000)
    # -- the exploration
    examples: int = _is(8, "exploration", int, "images shown", low=1, high=64)
    example_seed: int = _is(0, "exploration", int, "which ones", low=0)
    # fmt: on

    def replace(self, **changes: Any) -> Params:
        """The same with `changes`, checked."""
        return dataclasses.replace(self, **check(changes, "set"))


SPECS: dict[str, Spec] = {f.name: f.metadata["spec"] for f in dataclasses.fields(Params)}
DEFAULTS = Params()
WHOLE = "the whole recipe"  # the arm that an ablation compares with
RUN_GROUPS = ("data", "network", "training", "transforms")
RUN_PARAMETERS = [name for name, spec in SPECS.items() if spec.group in RUN_GROUPS]


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f"; did you mean {near[0]}?" if near else ""


def listed(names: Sequence[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def counted(n: int, thing: str) -> str:
    """ "1 page", "1,024 pages"."""
    return f"{n:,} {thing}" + "s" * (n != 1)


def percent(share: float | None, digits: int = 1) -> str:
    """0.6123 as "61.2 %", its space unbreakable; a dash where there is no value."""
    if share is None or not math.isfinite(share):
        return "–"
    return f"{share * 100:.{digits}f}\u00a0%".replace("-", "\u2212")


KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a map"}


def _kind_fault(value: Any, spec: Spec) -> str | None:
    if spec.kind in (int, float) and isinstance(value, str):
        if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
            return f"is the text '{value}' (YAML reads a number with an exponent only as 1.0e-3): write {float(value)}"
        allowed = f" or {'/'.join(spec.choices)}" if spec.choices else ""
        return f"is the text '{value}', expected {KINDS[spec.kind]}{allowed}"
    fitting = {float: (int, float), list: (list, tuple)}.get(spec.kind, spec.kind)
    if not isinstance(value, fitting) or (isinstance(value, bool) and spec.kind is not bool):
        return f"is {value!r}, expected {KINDS[spec.kind]}"
    return None


def _range_fault(value: Any, spec: Spec) -> str | None:
    if spec.kind is str and spec.choices and value not in spec.choices:
        return f"is '{value}', expected one of {', '.join(spec.choices)}{nearest(value, spec.choices)}"
    if spec.kind in (int, float):
        if isinstance(value, int) and abs(value) > 2**63:
            return "is a number of too many digits"
        if not math.isfinite(value):
            return f"is {value}, expected a finite number"
        bounds = (spec.low, "at least", ge), (spec.high, "at most", le), (spec.above, "above", gt)
        for bound, word, holds in bounds:
            if bound is not None and not holds(value, bound):
                return f"is {value}, expected {word} {bound:g}"
    return None


def check_spec(name: str, value: Any, spec: Spec, where: str) -> None:
    """Refuse a value of the wrong type or out of the spec's range, in a sentence that names `where` it stands."""
    fault = _kind_fault(value, spec) or _range_fault(value, spec)
    if fault:
        raise ParameterError(f"{where}: {name} {fault}{'' if fault.endswith('?') else '.'}")


def check_value(name: str, value: Any, where: str) -> Any:
    """`value` as the schema stores it (lists of seeds as tuples).

    Raises
    ------
    ParameterError: wrong type or out of range; the sentence names `where` it stands.
    """
    spec = SPECS[name]
    if value is None and spec.optional:
        return None
    if isinstance(value, str) and spec.kind is int and value in spec.choices:
        return value
    check_spec(name, value, spec, where)
    if name == "seeds":
        if not value or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in value):
            raise ParameterError(f"{where}: seeds is {list(value)}, expected a list of whole numbers from 0.")
        if len(set(value)) < len(value):
            raise ParameterError(f"{where}: seeds is {list(value)}, a seed stands in it twice.")
        return tuple(value)
    if name == "test_views" and value not in (1, 2, 10):
        raise ParameterError(f"{where}: test_views is {value}, expected 1, 2 or 10.")
    if name == "network" and value not in network_names():
        known = ", ".join(network_names())
        raise ParameterError(f"{where}: network is '{value}', expected one of {known}{nearest(value, network_names())}")
    return float(value) if spec.kind is float else value


def check(values: Mapping[str, Any], where: str, allowed: Iterable[str] | None = None) -> dict[str, Any]:
    """`values` checked one by one; with `allowed`, names outside it are refused as the notebook's unknown ones."""
    names = set(SPECS if allowed is None else allowed)
    for name in values:
        if name not in names:
            near = nearest(str(name), names) or "; delete it, or take one of `Params` in fer_core/schema.py."
            why = " here: delete it." if name in SPECS else near
            raise ParameterError(f"{where}: unknown parameter {name}{why}")
    return {name: check_value(name, value, where) for name, value in values.items()}


def network_names() -> list[str]:
    """The networks there are: one for each file in fer_core/networks/, found without importing any."""
    files = (PACKAGE / "networks").glob("[!.]*.py")
    return sorted(f.stem for f in files if f.stem not in ("__init__", "layers"))


@cache
def settled(network: str) -> frozenset[str]:
    """The parameters of networks that this one's file never reads, since it settles them itself."""
    source = (PACKAGE / "networks" / f"{network}.py").read_text(encoding="utf-8")
    own = [n for n, spec in SPECS.items() if spec.group == "network" and n not in ("network", "initialisation")]
    return frozenset(name for name in own if not re.search(rf"\bparams\.{name}\b", source))


# ---------------------------------------------------------------------------------------------------------------- YAML


@cache
def _strict_loader() -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """SafeLoader that refuses a key that stands twice."""

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise ParameterError(f"line {key_node.start_mark.line + 1}: a name is expected before the colon.")
            key = loader.construct_object(key_node)
            if key in seen:
                raise ParameterError(f"line {key_node.start_mark.line + 1}: {key} stands twice; delete one.")
            seen.add(key)
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    return Loader


def parse_yaml(text: str, where: str) -> Any:
    """YAML read strictly.

    Raises
    ------
    ParameterError: not YAML, or a duplicate key; names `where` and the line.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_strict_loader())  # noqa: S506  (a SafeLoader)
    except ParameterError as fault:
        raise ParameterError(f"{where}, {fault}") from None
    except yaml.YAMLError as fault:
        mark = getattr(fault, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(fault, "problem", fault)
        raise ParameterError(f"{where}{line}: not valid YAML ({problem}): correct it.") from None


def load_yaml(path: Path) -> dict[str, Any]:
    """The map in a YAML file; an empty file is an empty map."""
    where = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ParameterError(f"{where}: not UTF-8 text; save it as UTF-8.") from None
    values = parse_yaml(text, where)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ParameterError(f"{where}: expected lines of `name: value`, found {type(values).__name__}.")
    return values


def parse_set(text: str) -> dict[str, Any]:
    """`epochs=2 learning_rate=0.01` as checked values; lists are written without blanks: `seeds=[0,1]`."""
    values: dict[str, Any] = {}
    for part in text.split():
        name, equals, value = part.partition("=")
        if not equals:
            raise ParameterError(f"SET: '{part}' is not name=value.")
        if name in values:
            raise ParameterError(f"SET: {name} stands twice; delete one.")
        values[name] = parse_yaml(value, f"SET {name}")
    return check(values, "SET")


# --------------------------------------------------------------------------------------------------------------- pages


@dataclass(frozen=True)
class Page:
    """One YAML: `name` is notebook/page; `values` what the YAML states."""

    name: str
    values: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def notebook(self) -> str:
        return self.name.split("/")[0]

    @property
    def text(self) -> str:
        """The YAML as it was written, reasons among it; empty where it is gone."""
        path = ROOT / "params" / f"{self.name}.yaml"
        return path.read_text(encoding="utf-8").strip() if path.exists() else ""


def page_names() -> list[str]:
    """Every page, in reading order: notebooks by number, `default` first in each, `summary` last."""
    files = (ROOT / "params").glob("[0-9]*/[!.]*.yaml")  # none that an editor or a system put beside
    rank = {"default": 0, "summary": 2}
    names = [f"{f.parent.name}/{f.stem}" for f in files]
    return sorted(names, key=lambda n: (n.split("/")[0], rank.get(n.split("/")[1], 1), n))


def neighbours(names: list[str]) -> dict[str, tuple[str | None, str | None]]:
    """The page before and the page after each of those named, in their order."""
    sides = zip([None, *names], names, [*names[1:], None], strict=False)
    return {name: (before, after) for before, name, after in sides}


def load_page(name: str) -> Page:
    """The page of that name.

    Raises
    ------
    ParameterError: no such page (with the nearest), or its YAML is at fault.
    """
    if name not in page_names():
        near = nearest(name, page_names()) or ": a page is <notebook>/<page>, of a file params/<notebook>/<page>.yaml."
        raise ParameterError(f"no page {name}{near}")
    page = Page(name, load_yaml(ROOT / "params" / f"{name}.yaml"))
    check(page.values, f"params/{name}.yaml", notebook_parameters(page.notebook))
    return page


def read_notebook(notebook: str) -> dict[str, Any]:
    """The notebook as the study knows it: without the cell that prepares Colab and Kaggle (fer_core/bootstrap.py)."""
    path = ROOT / "notebooks" / f"{notebook}.ipynb"
    if not path.exists():
        raise ParameterError(f"notebooks/{notebook}.ipynb is missing: a page's folder is named after its notebook.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise ParameterError(f"notebooks/{notebook}.ipynb is no notebook any more: {fault}.") from fault
    return {**found, "cells": [c for c in found["cells"] if BOOTSTRAP not in c.get("metadata", {}).get("tags", [])]}


def notebook_defaults(notebook: str) -> dict[str, Any]:
    """The literals in the notebook's cell tagged `parameters`, checked, read without running it.

    papermill's own inspection drops parameters annotated with a union (nteract/papermill#906), so the cell is parsed.
    """
    where = f"notebooks/{notebook}.ipynb"
    for cell in read_notebook(notebook)["cells"]:
        if "parameters" in cell.get("metadata", {}).get("tags", []):
            try:
                tree = ast.parse("".join(cell["source"]))
            except SyntaxError as fault:
                raise ParameterError(f"{where}: the parameters cell is no Python: {fault.msg}.") from fault
            break
    else:
        raise ParameterError(f"{where}: no cell tagged `parameters`.")
    values = {}
    for line in tree.body:
        match line:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                pass
            case _:
                raise ParameterError(f"{where}: the parameters cell holds more than `name = literal`.")
        try:
            values[name] = ast.literal_eval(value)
        except ValueError as fault:
            told = f"`{name} = {ast.unparse(value)}` is no literal"
            raise ParameterError(f"{where}: {told}, which papermill could replace: write its value.") from fault
    return check(values, where)


def notebook_parameters(notebook: str) -> list[str]:
    """The names a notebook accepts: all of each group that its parameters cell names one of."""
    groups = {SPECS[name].group for name in notebook_defaults(notebook)}
    if "training" in groups:
        groups |= {*RUN_GROUPS, "page"}
    seeded_by_page = "page" in groups
    return [name for name, spec in SPECS.items() if spec.group in groups and not (name == "seed" and seeded_by_page)]


@cache
def sample_ceilings() -> dict[str, Any]:
    """params/sample.yaml: ceilings on numbers (and on how many seeds) wherever the data is drawn."""
    path = ROOT / "params" / "sample.yaml"
    values = load_yaml(path) if path.exists() else {}
    count = values.pop("seeds", None)
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ParameterError(f"params/sample.yaml: seeds is {count!r}, expected how many seeds at most.")
    return {**check(values, "params/sample.yaml"), **({"seeds": count} if count else {})}


def _lower(params: Params) -> Params:
    changes: dict[str, Any] = {}
    for name, ceiling in sample_ceilings().items():
        value = getattr(params, name)
        if value is not None:
            changes[name] = value[:ceiling] if name == "seeds" else min(value, ceiling)
    return dataclasses.replace(params, **changes)


def resolve(values: Mapping[str, Any], sample: bool, set_values: Mapping[str, Any] | None = None) -> Params:
    """Checked `values` over the general defaults, under the sample's ceilings, with SET last."""
    params = Params(**values)
    return dataclasses.replace(_lower(params) if sample else params, **(set_values or {}))


def resolve_page(page: Page, sample: bool, set_values: Mapping[str, Any] | None = None) -> Params:
    """A page's parameters, all layers applied; SET touches those that its notebook has."""
    names = notebook_parameters(page.notebook)
    values = {**notebook_defaults(page.notebook), **check(page.values, f"params/{page.name}.yaml", names)}
    return resolve(values, sample, {k: v for k, v in (set_values or {}).items() if k in names})


def arm_params(
    arm: Mapping[str, Any], seeds: Iterable[int], sample: bool, set_values: Mapping[str, Any] | None = None
) -> list[Params]:
    """The runs of one arm of a claim: its base page with what the arm sets, a seed each."""
    sound = isinstance(arm, Mapping) and "page" in arm and set(arm) <= {"page", "set"}
    if not sound or not isinstance(arm.get("set") or {}, Mapping):
        raise ParameterError(f"an arm is {{page: …, set: {{…}}}}, found {arm!r}.")
    page = load_page(str(arm["page"]))
    changes = check(arm.get("set") or {}, f"arm of {arm['page']}", notebook_parameters(page.notebook))
    params = resolve_page(Page(page.name, page.values | changes), sample, set_values)
    return [dataclasses.replace(params, seed=seed) for seed in seeds]


def claim_runs(params: Params, sample: bool, set_values: Mapping[str, Any] | None = None) -> dict[str, list[Params]]:
    """The runs that a claim compares, by arm, a seed each; where it says so each seed draws its own split."""
    arms = {name: arm_params(arm, params.seeds, sample, set_values) for name, arm in params.arms.items()}
    if params.split_by_seed:
        arms = {name: [run.replace(split_seed=run.seed) for run in runs] for name, runs in arms.items()}
    return arms


def ablation_runs(params: Params, sample: bool, set_values: Mapping[str, Any] | None = None) -> dict[str, list[Params]]:
    """The runs that tell each ingredient's worth: the whole recipe, and it without each, all short and of one seed."""
    if not params.ablation:
        return {}
    arms = {}
    without = {f"without {name}": changes for name, changes in params.ablation.items()}
    for name, changes in ({WHOLE: {}} | without).items():
        if not isinstance(changes, Mapping):
            raise ParameterError(f"ablation, {name}: expected {{parameter: value}}, found {changes!r}.")
        changed = dataclasses.replace(params, **check(changes, f"ablation, {name}", RUN_PARAMETERS))
        changed = dataclasses.replace(changed, seed=params.seeds[0], epochs=min(params.epochs, params.ablation_epochs))
        changed = dataclasses.replace(_lower(changed) if sample else changed, **(set_values or {}))
        arms[name] = [dataclasses.replace(changed, ablation={}, test_by_epoch=False)]
    return arms


def page_runs(
    page: Page, params: Params, sample: bool, set_values: Mapping[str, Any] | None = None
) -> dict[str, list[Params]]:
    """The runs a page needs, by arm.

    A training page's own arm, the first, is named after it; those of an ablation follow. An exploration has none.
    """
    if params.arms:
        return claim_runs(params, sample, set_values)
    if "learning_rate" not in notebook_parameters(page.notebook):
        return {}
    own = {page.name: [dataclasses.replace(params, seed=seed) for seed in params.seeds]}
    return own | ablation_runs(params, sample, set_values)


def applies(params: Params, classes: Iterable[str]) -> bool:
    """Whether a page makes sense on data of these classes: some claims are about FER2013's emotions or its copies."""
    return not (params.arms and params.needs_fer2013) or tuple(classes) == EMOTIONS


def stated(params: Params, base: Params = DEFAULTS) -> dict[str, Any]:
    """The parameters that are not as in `base`."""
    return {name: getattr(params, name) for name in SPECS if getattr(params, name) != getattr(base, name)}


def run_values(params: Params) -> dict[str, Any]:
    """The parameters that bear on training and are not at their general default; precision and threads stand apart."""
    known = set(RUN_PARAMETERS) - {"precision", "threads"}
    return {name: value for name, value in stated(params).items() if name in known}
