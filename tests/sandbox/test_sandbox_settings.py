"""The sandbox's settings: overrides, allowed values, and what can be changed after the start."""

from __future__ import annotations

import doctest
from dataclasses import fields, replace
from importlib import import_module
from typing import Any, get_type_hints

import pytest

import wan_async.sandbox
from wan_async.sandbox import Sandbox, Settings
from wan_async.sandbox.settings import CHOICES, Overrides


def test_the_package_exports_its_public_names_and_loads_them_lazily() -> None:
    assert wan_async.sandbox.__all__ == ["ClipOrder", "Sandbox", "Settings", "transport"]
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        wan_async.sandbox.nothing  # noqa: B018 - it must raise


def test_settings_can_be_given_and_overridden() -> None:
    sandbox = Sandbox(Settings(seed=3, balance_usd=5.0), balance_usd=1.0)
    assert (sandbox.settings.seed, sandbox.settings.balance_usd) == (3, 1.0)


def test_the_keyword_arguments_have_the_names_and_types_of_the_settings() -> None:
    assert get_type_hints(Overrides) == get_type_hints(Settings)
    assert Overrides.__annotations__.keys() == {field.name for field in fields(Settings)}


@pytest.mark.parametrize("name", CHOICES)
def test_a_value_that_is_not_allowed_is_refused(name: str) -> None:
    values: dict[str, Any] = {name: "x"}
    with pytest.raises(ValueError, match=f"{name} is one of "):
        replace(Settings(), **values).check()


def test_only_some_settings_can_be_changed_and_only_to_allowed_values() -> None:
    sandbox = Sandbox()
    for values in ({"now": None, "uploads": "refuse"}, {"uploads": "x"}):
        with pytest.raises(ValueError, match=r"now|uploads"):
            sandbox.change(**values)
    assert sandbox.settings.uploads == "accept"
    sandbox.change(uploads="refuse")
    assert sandbox.settings.uploads == "refuse"


@pytest.mark.parametrize("name", ["", ".faults", ".in_process", ".service", ".settings"])
def test_the_examples_in_docstrings_work(name: str) -> None:
    result = doctest.testmod(import_module(f"wan_async.sandbox{name}"))
    assert (result.failed, result.attempted > 0) == (0, True)
