"""environment.yml, pyproject.toml and the lock say the same, and no address stands in them."""

from __future__ import annotations

import re
import tomllib

import yaml

from fer_core.schema import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
LOCKED = dict(re.findall(r"^([a-z0-9._-]+)==([^ ;\\]+)", LOCK, re.MULTILINE))


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ ;\[]", requirement)[0].lower().replace("_", "-")


def test_environment_yml_lists_what_pyproject_lists() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    conda = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    assert sorted(conda) == sorted(PROJECT["dependencies"])
    assert f"python{PROJECT['requires-python']}" in listed


def test_lock_holds_every_dependency_at_a_version_that_pyproject_allows() -> None:
    for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]:
        name = name_of(requirement)
        assert name in LOCKED, name
        pinned = re.search(r"==(.+)", requirement)
        if pinned:
            assert LOCKED[name] == pinned.group(1)
        least = re.search(r">=([\d.]+)", requirement)
        if least:
            have, want = ([int(part) for part in v.split(".")[:3] if part.isdigit()] for v in (LOCKED[name], least[1]))
            assert have >= want, requirement


def test_every_locked_package_has_hashes_and_no_address() -> None:
    entries = re.split(r"\n(?=[a-z0-9])", LOCK)
    assert all("--hash=sha256:" in entry for entry in entries)
    assert not re.search(r"https?://|index-url|find-links", LOCK)


def test_lock_resolves_for_linux_macos_and_windows() -> None:
    assert "sys_platform == 'win32'" in LOCK
    assert "sys_platform == 'linux'" in LOCK
    assert "sys_platform == 'darwin'" in LOCK


def test_every_dependency_says_why_it_is_there() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in PROJECT["dependencies"]:
        assert re.search(re.escape(f'"{requirement}",') + r" +# \S", text), requirement
