"""The pytest plugin: every check of a plugin package as a test.

    @pytest.mark.auditor_plugin("auditor-rain")
    def test_plugin_passes_the_check(plugin_check):
        assert plugin_check.outcome == "ok", plugin_check.message

is one test for each check of the package, which is given by its name or its folder. A check that does not apply is
skipped with its reason. Checks run when their test does, so tests can be selected with ``-k``.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from auditor.conformance.bench import Planned
    from auditor.conformance.package import Check, Plan

_FIXTURE = "plugin_check"


class _Packages:
    """The packages under test; they can be imported until the session ends."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self._plans: dict[str, Plan] = {}

    def plan(self, package: str) -> Plan:
        """Return the checks of a package, planned once."""
        from auditor.conformance.package import planned

        if package not in self._plans:
            self._plans[package] = self.stack.enter_context(planned(package))
        return self._plans[package]


_PACKAGES = pytest.StashKey[_Packages]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line("markers", "auditor_plugin(package): the package whose checks `plugin_check` runs")
    config.stash[_PACKAGES] = _Packages()


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what made the packages importable."""
    config.stash[_PACKAGES].stack.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each check, for tests that use ``plugin_check``."""
    if _FIXTURE not in metafunc.fixturenames:
        return
    from auditor.errors import BadInput

    marker = metafunc.definition.get_closest_marker("auditor_plugin")
    if marker is None or len(marker.args) != 1:
        raise pytest.UsageError(
            f'{metafunc.definition.nodeid}: plugin_check needs @pytest.mark.auditor_plugin("name of the package")'
        )
    try:
        checks = metafunc.config.stash[_PACKAGES].plan(marker.args[0]).checks
    except BadInput as error:
        # as a test that fails: the other tests of the session still run
        checks = [_failing(error)]
    names = [f"{check.subject or marker.args[0]}: {check.name}" for check in checks]
    metafunc.parametrize(_FIXTURE, checks, ids=names, indirect=True)


def _failing(error: Exception) -> Planned:
    from auditor.conformance.bench import Planned

    return Planned("", "is a plugin", partial(_raise, error))


def _raise(error: Exception) -> None:
    raise error


@pytest.fixture
def plugin_check(request: pytest.FixtureRequest) -> Check:
    """The outcome of one check of the package; skips a check that does not apply."""
    from auditor.conformance.package import outcome

    found = outcome(request.param)
    if found.outcome == "n/a":
        pytest.skip(found.message)
    return found
