"""What a notebook calls answers `?`: every public name says what goes in and what comes out."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import pytest

from fer_core import analysis, beyond, evaluation, exploration, notebook, plots


def public(module: ModuleType) -> list[tuple[str, Any]]:
    """Functions and classes of the module's own, and the classes' methods and properties."""
    found = []
    for name, member in vars(module).items():
        if name.startswith("_") or getattr(member, "__module__", "") != module.__name__ or not callable(member):
            continue
        found.append((name, member))
        if inspect.isclass(member):
            own = {k: getattr(v, "__func__", v) for k, v in vars(member).items() if not k.startswith("_")}
            found += [(f"{name}.{k}", v) for k, v in own.items() if inspect.isfunction(v) or isinstance(v, property)]
    return found


NAMES = [
    pytest.param(member, id=f"{module.__name__}.{name}")
    for module in (notebook, plots, evaluation, exploration, analysis, beyond)
    for name, member in public(module)
]


def test_there_is_something_to_ask_about() -> None:
    asked = {parameter.id for parameter in NAMES}
    assert {"fer_core.notebook.train_or_load", "fer_core.plots.loss_curves", "fer_core.evaluation.wilson"} <= asked


@pytest.mark.parametrize("member", NAMES)
def test_public_name_has_a_docstring_with_parameters_and_returns(member: Any) -> None:
    assert member.__doc__
    if inspect.isfunction(member):
        signature = inspect.signature(member)
        takes = [name for name in signature.parameters if name not in ("self", "cls")]
        if takes:
            assert "Parameters\n" in member.__doc__
        missing = [name for name in takes if name not in member.__doc__.split("Parameters\n")[-1]]
        assert not missing
        if "." not in member.__qualname__ and signature.return_annotation not in ("None", None):
            assert "Returns\n" in member.__doc__
