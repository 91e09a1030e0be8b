"""Check the names in a request before any heavy library is imported: a misspelt suite is refused at once."""

from __future__ import annotations

from pathlib import Path

from auditor.errors import BadInput
from auditor.plugin import registry
from auditor.plugin.suite import find_suite
from auditor.policy.rules import read_policy
from auditor.run.request import Request
from auditor.run.selection import choose_probes
from auditor.run.writing import pick_formats


def check_names(request: Request) -> None:
    """Raise BadInput if the request names a model, suite, policy, format, probe or setting that does not exist."""
    if not request.model.exists():
        raise BadInput(f"{request.model}: no such file")
    if isinstance(request.data, Path) and not request.data.exists():
        raise BadInput(f"--data {request.data}: no such file or folder")
    plugins = registry.load()
    suite = find_suite(request.suite, plugins)
    read_policy(request.policy, plugins.probes, policies=plugins.policies())
    pick_formats(plugins, request.formats, request.paper)
    choose_probes(plugins, suite, request)
