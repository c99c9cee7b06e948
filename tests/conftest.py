"""Fixtures and hooks of all tests."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import partial

import hypothesis
import pytest
from order import draw_order

hypothesis.settings.register_profile(
    "random", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], max_examples=300
)  # both measure real time, which varies with the load of the machine
hypothesis.settings.register_profile(
    "suite", hypothesis.settings.get_profile("random"), derandomize=True, max_examples=30
)
hypothesis.settings.load_profile("suite")  # a suite that passed once passes again; `nox -s slow` draws other examples
gc.disable()  # until all tests are collected: what is made before is kept

LONGEST = "test_kills.py"
"""The module whose tests take longest, mostly waiting."""

pytest_plugins = ["review_fixtures"]

os.environ["WAN_ASYNC_CONFIG"] = ""  # the settings of whoever runs the tests have no part in them


def pytest_addoption(parser: pytest.Parser) -> None:
    """The order of tasks is set by an option, so that a failure can be repeated."""
    parser.addoption("--trio-seed", type=int, default=0, help="draws the order of tasks on trio; default: %(default)s")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest tests first, so that no other worker of xdist waits for them in the end."""
    items.sort(key=lambda item: item.path.name != LONGEST)


def pytest_collection_finish() -> None:
    """Leaves the collected tests, which are never garbage, out of what each garbage collection looks at."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is marked `virtual_time` or `virtual_loops` in virtual time."""
    if pyfuncitem.get_closest_marker("virtual_loops") is not None:
        from steps import run_virtually

        backend = str(pyfuncitem.callspec.params["virtual_backend"])
        names = pyfuncitem._fixtureinfo.argnames
        given = {name: pyfuncitem.funcargs[name] for name in names if name != "virtual_backend"}
        run_virtually(backend, lambda steps: pyfuncitem.obj(**given))
        return True
    if pyfuncitem.get_closest_marker("virtual_time") is None:
        return None
    from harness import virtually  # only these tests pay for its imports

    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    virtually(partial(pyfuncitem.obj, **arguments))
    return True


@pytest.hookimpl(tryfirst=True)  # before pytest looks for markers
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Runs a test that is marked `virtual_loops` on both event loops, and one that is marked `asyncio_only` on one."""
    if metafunc.definition.get_closest_marker("asyncio_only") is not None and "anyio_backend" in metafunc.fixturenames:
        metafunc.definition.add_marker(pytest.mark.parametrize("anyio_backend", ["asyncio"]))
    if metafunc.definition.get_closest_marker("virtual_loops") is not None:
        metafunc.fixturenames.append("virtual_backend")
        metafunc.parametrize("virtual_backend", ["asyncio", "trio"])


@pytest.fixture(autouse=True)
def _order(pytestconfig: pytest.Config) -> None:
    """Sets the order in which trio runs tasks that are ready at once, whichever tests ran before."""
    draw_order(pytestconfig.getoption("trio_seed"))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Async tests run on both backends unless they say otherwise."""
    return str(request.param)


@pytest.fixture
def dsn() -> Iterator[str]:
    """The address of a database of the test's own, in a real PostgreSQL."""
    from postgres_server import database  # only these tests pay for its imports

    with database() as found:
        yield found


@pytest.fixture(autouse=True)
def _no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the credentials of a real account from the environment."""
    for name in ("WIRO_API_KEY", "WIRO_API_SECRET", "WIRO_BASE_URL", "WIRO_SOCKET_URL"):
        monkeypatch.delenv(name, raising=False)
