"""Run an audit from the command line: progress, interruption, summary, exit status."""

from __future__ import annotations

import contextlib
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from auditor.data.location import without_secrets
from auditor.errors import BadInput
from auditor.printable import printable_text

if TYPE_CHECKING:
    from auditor.findings.comparison_record import ComparisonRecord
    from auditor.run.request import Outcome, Progress, Request

FAILED, UNUSABLE, INCOMPLETE, INTERRUPTED = 1, 2, 3, 130
"""Exit statuses."""


def audit(
    request: Request,
    *,
    verbose: bool,
    quiet: bool,
    fail_on: str,
    baseline: Path | None,
    fail_on_regression: bool,
    in_process: bool,
) -> None:
    """Run an audit, print its summary and exit with its status."""
    from auditor.cli.progress import progress
    from auditor.run.request import Interrupted

    if verbose and quiet:
        raise BadInput("--verbose and --quiet: exclude each other; leave one out")
    _check_options(request, baseline, fail_on_regression=fail_on_regression)
    request = replace(request, command=printable_text(without_secrets(shlex.join(["auditor", *sys.argv[1:]]))))
    _catch_terminate()
    with progress(verbose=verbose, quiet=quiet) as display:
        try:
            outcome = _run(request, display, verbose=verbose, in_process=in_process)
        except Interrupted as interrupted:
            _exit_interrupted(request, interrupted.out)
    if verbose:
        _print_tracebacks(outcome)
    regressed = baseline is not None and _compare_with(baseline, outcome, request.formats, quiet=quiet)
    finish(outcome, fail_on, quiet=quiet, failed=regressed and fail_on_regression)


def _run(request: Request, display: Progress, *, verbose: bool, in_process: bool) -> Outcome:
    """Run the audit in a supervised process, or in this one."""
    from auditor.run import supervisor

    if supervisor.is_possible() and not in_process:
        return supervisor.run(request, display, verbose=verbose)
    from auditor.model.device import keep_memory
    from auditor.run.session import run

    keep_memory()
    return run(request, display)


def check_paper(formats: Sequence[str]) -> None:
    """Raise BadInput if an option of the PDF is given and no report has pages."""
    context = click.get_current_context(silent=True)
    usable = {"paper": {"pdf", "pdfa"}, "pdf": {"pdf"}}
    for option, needed in usable.items():
        source = context.get_parameter_source(option) if context else None
        if source == click.core.ParameterSource.COMMANDLINE and not needed & set(formats):
            raise BadInput(f"--{option}: concerns the PDF, and --format names no pdf; leave the option out")


def _check_options(request: Request, baseline: Path | None, *, fail_on_regression: bool) -> None:
    check_paper(request.formats)
    if fail_on_regression and baseline is None:
        raise BadInput("--fail-on-regression: requires --baseline RUN, the folder of the run to compare with")
    if baseline is not None:
        from auditor.run.replay import read_audit

        # an unusable baseline must fail before hours of measuring
        read_audit(baseline)


def _catch_terminate() -> None:
    """Treat SIGTERM and SIGHUP like Ctrl-C: files stay whole, and the audit can be resumed."""

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # nohup ignores SIGHUP, so that the audit survives its terminal
        if number is not None and signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)


def _exit_interrupted(request: Request, out: Path) -> NoReturn:
    # --fresh would discard what was measured
    command = request.command.replace(" --fresh", "") if request.fresh else request.command
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"\nInterrupted. Measured records are kept in {out}. To resume:\n  {command}", err=True)
    sys.exit(INTERRUPTED)


def _print_tracebacks(outcome: Outcome) -> None:
    for record in outcome.audit["probes"]:
        trace = outcome.out / "records" / record["id"] / "error.txt"
        if record["status"] == "error" and trace.is_file():
            click.echo(f"{record['id']}:\n{trace.read_text(encoding='utf-8')}", err=True)


def _compare_with(baseline: Path, outcome: Outcome, formats: Sequence[str], *, quiet: bool) -> bool:
    """Compare a finished audit with an earlier one; return whether any metric is worse."""
    from auditor.compare import comparison

    if baseline.resolve() == outcome.out.resolve():
        raise BadInput(f"--baseline {baseline}: is the folder of this run; choose another folder with --out")
    result = comparison.compare([baseline, outcome.out])
    known = [name for name in formats if name in comparison.FORMATS]
    write_comparison(result, outcome.out / "comparison", known, quiet=quiet)
    return comparison.regressed(result)


def write_comparison(result: ComparisonRecord, out: Path, formats: Sequence[str], *, quiet: bool = False) -> None:
    """Write a comparison and print its summary."""
    from auditor.cli import tables
    from auditor.compare import comparison

    written = comparison.write(result, out, formats)
    click.echo(f"Comparison: {result['verdict']}" if quiet else tables.comparison(result, written.files))
    print_problems(written.problems)


def print_problems(problems: Sequence[str]) -> None:
    """Print problems to stderr, one line each."""
    for problem in problems:
        click.echo(f"auditor: {problem}", err=True)


def unshown(outcome: Outcome) -> list[str]:
    """Name the characters that the PDF of an audit, if one was written, cannot show."""
    from auditor.report.fonts import missing_glyphs

    if not any(file.suffix == ".pdf" for file in outcome.files):
        return []
    note = missing_glyphs(outcome.audit)
    return [note] if note else []


def finish(outcome: Outcome, fail_on: str, *, quiet: bool = False, failed: bool = False) -> None:
    """Print the summary of an audit and exit with its status."""
    from auditor.cli.tables import summary
    from auditor.policy.verdict import at_or_above

    # the reader of a pipe may have ended; the exit status still says how the audit ended
    with contextlib.suppress(BrokenPipeError):
        click.echo(f"Verdict: {outcome.audit['verdict']}" if quiet else summary(outcome))
        print_problems([*outcome.problems, *unshown(outcome)])
    if outcome.incomplete:
        sys.exit(INCOMPLETE)
    if failed or at_or_above(outcome.audit["probes"], fail_on):
        sys.exit(FAILED)
