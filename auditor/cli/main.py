"""The command line. Nothing heavy is imported before a command needs it: ``--help`` answers at once.

Exit status: 0 audit complete, nothing at or above --fail-on; 1 something at or above it; 2 unusable arguments or input;
3 incomplete (a probe, plugin or report broke); 130 interrupted, what was measured is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from auditor.cli.options import GRADES
from auditor.errors import AuditorError, BadInput

if TYPE_CHECKING:
    from auditor.run.request import Outcome, Request
from auditor.cli.options import PAPER, TRUST, audit_options, check_device, input_options, name_list

FAILED, UNUSABLE, INCOMPLETE, INTERRUPTED = 1, 2, 3, 130


class _Main(click.Group):
    """Turns what goes wrong into one sentence and an exit status; keeps the commands in the order of their use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of definition."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; no traceback reaches a user for bad input."""
        try:
            return super().invoke(ctx)
        except AuditorError as error:
            _refuse(str(error))
        except click.UsageError as error:
            if error.ctx is None or "help" in type(error).__name__.lower():
                raise
            _refuse(f"{error.format_message().rstrip('.')} (see `{error.ctx.command_path} --help`)")
        except (click.exceptions.Exit, click.ClickException):
            # click's own ways to end, --help among them
            raise
        except KeyboardInterrupt:
            # click would say "Aborted!" and end with 1
            click.echo("\nauditor: interrupted before anything was measured", err=True)
            sys.exit(INTERRUPTED)
        except BrokenPipeError:
            # the reader of a pipe (head, less) has gone
            sys.stderr.close()
            sys.exit(0)
        except OSError as error:
            _refuse(
                f"{error.filename or 'a file'}: {error.strerror or error}; name another place or make it accessible"
            )
        except Exception:
            # Python's own status for an uncaught exception is 1, which here means "complete, and something was found"
            import traceback

            click.echo(traceback.format_exc() + "auditor: this is a bug in the auditor; please report it", err=True)
            sys.exit(INCOMPLETE)


def _refuse(sentence: str) -> NoReturn:
    click.echo("auditor: " + " ".join(sentence.split()), err=True)
    sys.exit(UNUSABLE)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="auditor")
def main() -> None:
    """Audit a deployed image classifier: what breaks it and how little it takes, whom it fails, what it looks at, and
    how far each statement can be trusted.

    \b
    auditor demo                                       builds a small real model and audits it
    auditor run model.onnx --data images --suite full  audits yours
    """


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
              help="Folder of images (one per class, or flat), .csv or .parquet manifest, or .npz.")  # fmt: skip
@TRUST
@input_options
@audit_options
def run(model: Path, data: Path | None, **options: Any) -> None:
    """Audit MODEL, an ONNX file, a TorchScript archive or one of torch.export (.pt2).

    Data is looked for in this order: --data; the sidecar MODEL.audit.toml; the artefact's own metadata; else packaged
    photographs, without accuracy and bias. The same command again goes on where the last one stopped.

    Preprocessing is taken from the command line, else the sidecar, the artefact's own metadata,
    preprocessor_config.json or config.json beside the model, else guessed with a warning.
    """
    _audit(model, data, "standard", **options)


@main.command()
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"), show_default=True, metavar="DIR",
              help="Where the reference model is written.")  # fmt: skip
@audit_options
def demo(models: Path, **options: Any) -> None:
    """Build the reference model digits-cnn (seconds, no download), audit it with the full suite, say where the
    report is."""
    from auditor.reference_models import recipe

    say = (lambda _: None) if options["quiet"] else click.echo
    say("Training the reference model digits-cnn on scikit-learn's handwritten digits ...")
    model = recipe("digits-cnn").train(models, say=say)
    _audit(model, None, "full", trust_model=True, **options)


@main.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
              help="Labelled images on which to try the usual preprocessings.")  # fmt: skip
@click.option("--samples", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N",
              help="At most N of them.")  # fmt: skip
@click.option(
    "--device", default="auto", callback=check_device, metavar="auto|cpu|cuda|cuda:N|mps", help="Where to load it."
)
@TRUST
@input_options
def inspect(
    model: Path, data: Path | None, *, samples: int, device: str, overrides: dict[str, Any], trust_model: bool
) -> None:
    """Say what MODEL is: input, output, operators, white-box or not and why, preprocessing found or guessed.

    With --data, say which of the usual preprocessings fits best.
    """
    from auditor.cli.inspect import describe_model, try_preprocessings

    click.echo(describe_model(model, device, overrides, trust=trust_model))
    if data is not None:
        click.echo("\n" + try_preprocessings(model, data, samples, device, overrides, trust=trust_model))


@main.command()
@click.argument("probe", required=False, metavar="[ID]")
def probes(probe: str | None) -> None:
    """List every probe there is, built in or from a plugin; with ID, what it does, its settings and references."""
    from auditor.cli.listing import all_probes, one_probe
    from auditor.plugin import registry

    plugins = registry.load()
    if probe is None:
        click.echo(all_probes(plugins))
    else:
        chosen = plugins.select([probe], option="probe")
        click.echo("\n\n".join(one_probe(plugins, probe_id) for probe_id in chosen))
    for plugin in plugins.broken:
        click.echo(f"Plugin {plugin.name} is left out: {plugin.error}", err=True)
    if plugins.broken:
        sys.exit(INCOMPLETE)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--policy", required=True, metavar="NAME|FILE.toml", help="Thresholds to judge by.")
@click.option("--fail-on", type=click.Choice(GRADES), default="never", show_default=True)
@click.option(
    "--format", "formats", default="html,pdf,json", callback=name_list, metavar="LIST", help="Reports to draw again."
)
@PAPER
def judge(folder: Path, policy: str, fail_on: str, formats: Sequence[str], paper: str) -> None:
    """Judge RUN again by another policy, without a model call, and draw its reports again."""
    from auditor.run import replay

    _finish(replay.judge_again(folder, policy, formats, paper), fail_on, quiet=False)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--format", "formats", default="html,pdf", show_default=True, callback=name_list, metavar="LIST",
              help="html, pdf, pdfa, sarif, junit, md, card, or a plugin's.")  # fmt: skip
@PAPER
def report(folder: Path, formats: Sequence[str], paper: str) -> None:
    """Draw the reports of RUN again, without a model call."""
    from auditor.run import replay

    outcome = replay.draw_again(folder, formats, paper)
    for file in outcome.files[1:]:
        click.echo(str(file))
    for problem in outcome.problems:
        click.echo(f"auditor: {problem}", err=True)
    if outcome.problems:
        sys.exit(INCOMPLETE)


@main.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN_A RUN_B [RUN_C ...]")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Where to write. [default: comparisons/<A>-<B>]"
)
@click.option(
    "--format",
    "formats",
    default="html,pdf,json",
    show_default=True,
    callback=name_list,
    metavar="LIST",
    help="html, pdf, json.",
)
@click.option("--fail-on-regression", is_flag=True, help="Exit with status 1 when RUN_B is significantly worse.")
def compare(folders: Sequence[Path], out: Path | None, formats: Sequence[str], fail_on_regression: bool) -> None:
    """Compare runs image by image: what got significantly better or worse from RUN_A, the baseline, to RUN_B.

    Three runs or more give a leaderboard. Data and settings that differ between the runs are named.
    """
    from auditor.compare import comparison

    if fail_on_regression and len(folders) > 2:
        raise BadInput("--fail-on-regression: goes with two runs, the baseline and the new one")
    comparison.check_formats(formats)
    told = comparison.compare(folders)
    names = "-".join(folder.resolve().name for folder in folders)
    _show_comparison(told, out or Path("comparisons") / names, formats, quiet=False)
    if fail_on_regression and comparison.regressed(told):
        sys.exit(FAILED)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="RUN")
@click.option("--model", type=click.Path(path_type=Path), metavar="FILE", help="The model. [default: the run's own]")
@click.option("--device", default="auto", callback=check_device, metavar="auto|cpu|cuda|cuda:N|mps")
@TRUST
@click.option("-v", "--verbose", is_flag=True, help="Name every picture, also those that hold.")
def replay(folder: Path, model: Path | None, device: str, trust_model: bool, verbose: bool) -> None:
    """Ask the model again about every stored picture of RUN, and say claim by claim whether it holds.

    Needs neither the data nor a GPU: the run folder and the model's file are enough. Exit status 1 when one does not.
    """
    from auditor.cli.tables import claimed
    from auditor.run import replay

    claims = replay.replay(folder, model, device, trust=trust_model)
    click.echo(claimed(claims, verbose=verbose))
    if not all(claim.holds for claim in claims):
        sys.exit(FAILED)


@main.command()
@click.argument("recipe_name", required=False, metavar="[RECIPE]")
@click.option("--data", type=click.Path(path_type=Path), metavar="PATH",
              help="The recipe's images, where it needs any: whatever `auditor run --data` takes.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("models"), show_default=True, metavar="DIR",
              help="Where model, sidecar, test images and the record of the training are written.")  # fmt: skip
@click.option("--preset", metavar="NAME", help="full, or tiny for two cores and minutes. [default: full]")
@click.option(
    "--weights",
    metavar="pretrained|none|FILE",
    help="What to begin with: torchvision's weights, none, or a file. [default: pretrained; none for tiny]",
)
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="A setting of the recipe (repeatable).")
@click.option("--device", default="auto", callback=check_device, metavar="auto|cpu|cuda|cuda:N|mps")
@click.option("--fresh", is_flag=True, help="Begin anew where an earlier training was cut short.")
def train(recipe_name: str | None, data: Path | None, out: Path, **given: Any) -> None:
    """Build the documented reference model RECIPE and export it with its sidecar; without RECIPE, list them all.

    The same command again goes on where a training was cut short.
    """
    from auditor import reference_models

    if recipe_name is None:
        click.echo(reference_models.listing())
        return
    click.echo(f"Wrote {reference_models.build(recipe_name, out, data, click.echo, **given)}")


@main.group()
def plugin() -> None:
    """Write a new plugin, or check one before others use it."""


@plugin.command("new")
@click.argument("name")
def plugin_new(name: str) -> None:
    """Write the installable package NAME with one working probe, its test and a README into the folder NAME."""
    from auditor.plugin import template

    for file in template.write(name):
        click.echo(str(file))
    click.echo(f"Next: auditor plugin check ./{name}")


@plugin.command("check")
@click.argument("package")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but what failed.")
def plugin_check(package: str, quiet: bool) -> None:
    """Check every probe of PACKAGE, the name of an installed package or a folder with a pyproject.toml.

    On a small model: meta and settings, no heavy imports, the same rows in any batch and for the same seed, inputs left
    alone, range and budget, attacks stronger than noise of equal size. Exit status 1 when something failed.
    """
    from auditor.cli.progress import progress
    from auditor.cli.tables import conformity
    from auditor.conformance.package import check_package

    with progress(verbose=False, quiet=True):
        report = check_package(package)
    click.echo(conformity(report, quiet=quiet))
    if report.failed:
        sys.exit(FAILED)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete commands and options: eval "$(auditor completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "auditor", "_AUDITOR_COMPLETE").source())


@main.command()
def doctor() -> None:
    """Say what is installed and what is missing (CUDA, ONNX Runtime providers, Pango, plugins), and how to get it."""
    from auditor.cli.doctor import examine

    for check in examine():
        click.echo(f"{'ok     ' if check.fine else 'MISSING'}  {check.what}: {check.found}")
        if check.advice:
            click.echo(f"         {check.advice}")


def _audit(
    model: Path, data: Path | None, usual_suite: str, *, verbose: bool, quiet: bool, fail_on: str, engine: Any,
    workers: int | None, baseline: Path | None, fail_on_regression: bool, **options: Any,
) -> None:  # fmt: skip
    from auditor.cli.progress import progress
    from auditor.model.device import keep_memory
    from auditor.run.request import Interrupted, Request
    from auditor.run.session import run as execute

    if workers is not None and engine != "ray":
        raise BadInput("--workers: goes with --engine ray only; leave the option out")
    if fail_on_regression and baseline is None:
        raise BadInput("--fail-on-regression: needs --baseline RUN, the folder of the run to compare with")
    if baseline is not None:
        from auditor.run.replay import read_audit

        # before hours of measuring, not after them
        read_audit(baseline)
    request: Request = Request(
        model=model,
        data=data,
        suite=options.pop("suite") or usual_suite,
        engine=engine,
        workers=workers,
        command="auditor " + " ".join(_quote(argument) for argument in sys.argv[1:]),
        **options,
    )
    _catch_terminate()
    keep_memory()
    with progress(verbose=verbose, quiet=quiet) as shown:
        try:
            outcome = execute(request, shown)
        except Interrupted as stopped:
            # with --fresh it would begin anew
            again = request.command.replace(" --fresh", "") if request.fresh else request.command
            click.echo(f"\nInterrupted. What was measured is kept in {stopped.out}. To go on:\n  {again}", err=True)
            sys.exit(INTERRUPTED)
    if verbose:
        for record in outcome.audit["probes"]:
            trace = outcome.out / "records" / record["id"] / "error.txt"
            if record["status"] == "error" and trace.is_file():
                click.echo(f"{record['id']}:\n{trace.read_text(encoding='utf-8')}", err=True)
    worse = baseline is not None and _against(baseline, outcome, options["formats"], quiet=quiet)
    _finish(outcome, fail_on, quiet=quiet, failed=worse and fail_on_regression)


def _against(baseline: Path, outcome: Outcome, formats: Sequence[str], *, quiet: bool) -> bool:
    """Compare a finished audit with an earlier one; whether it is worse in anything."""
    from auditor.compare import comparison

    if baseline.resolve() == outcome.out.resolve():
        raise BadInput(f"--baseline {baseline}: is the run itself; name another folder with --out")
    told = comparison.compare([baseline, outcome.out])
    known = [name for name in formats if name in {"html", "pdf", "json"}]
    _show_comparison(told, outcome.out / "comparison", known, quiet=quiet)
    return comparison.regressed(told)


def _show_comparison(told: dict[str, Any], out: Path, formats: Sequence[str], *, quiet: bool) -> None:
    from auditor.cli import tables
    from auditor.compare import comparison

    files, problems = comparison.write(told, out, formats)
    click.echo(f"Comparison: {told['verdict']}" if quiet else tables.comparison(told, files))
    for problem in problems:
        click.echo(f"auditor: {problem}", err=True)


def _finish(outcome: Outcome, fail_on: str, *, quiet: bool, failed: bool = False) -> None:
    from auditor.cli.tables import summary
    from auditor.policy.verdict import at_or_above

    click.echo(f"Verdict: {outcome.audit['verdict']}" if quiet else summary(outcome))
    for problem in outcome.problems:
        click.echo(f"auditor: {problem}", err=True)
    if outcome.incomplete:
        sys.exit(INCOMPLETE)
    if failed or at_or_above(outcome.audit["probes"], fail_on):
        sys.exit(FAILED)


def _catch_terminate() -> None:
    """SIGTERM ends an audit like Ctrl-C: whole files, and a way to go on."""
    import signal

    def stop(_signal: int, _frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)


def _quote(argument: str) -> str:
    import shlex

    return shlex.quote(argument)
