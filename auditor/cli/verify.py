"""The lines of ``auditor verify``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import click

from auditor.run.verification import Check

_STYLES = {"holds": "green", "FAILED": "red", "not checked": "yellow"}


def print_checks(checks: Iterable[Check]) -> bool:
    """Print one line per claim as soon as it is checked, and the counts; return whether none failed."""
    outcomes: Counter[str] = Counter()
    for check in checks:
        outcomes[check.outcome] += 1
        click.echo(f"{click.style(f'{check.outcome:11}', fg=_STYLES[check.outcome])}  {check.claim}: {check.text}")
    counts = (outcomes["holds"], outcomes["FAILED"], outcomes["not checked"])
    click.echo("{} claims hold, {} failed, {} could not be checked.".format(*counts))
    return not outcomes["FAILED"]
