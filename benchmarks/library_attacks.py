"""Run every attack of ART, Foolbox or torchattacks on a grey and a colour model; write the table in docs/reference.

    uv run python benchmarks/library_attacks.py art|foolbox|torchattacks [ATTACK ...]

Only the rows of the named attacks are measured again; without a name, all are. The grey model is the reference model
digits-cnn, the colour model the small network of ``auditor plugin check``. A row counts the images, of ``IMAGES``, that
the deployed model misclassifies after the attack, within the budget or at any distance.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from auditor import BadInput
from auditor.conformance.bench import open_subject, write_subject
from auditor.conformance.subject import Subject
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.probes.base import Randomness

DOCUMENTS = {"art": "art.md", "foolbox": "foolbox-torchattacks.md", "torchattacks": "foolbox-torchattacks.md"}
LIBRARIES = {"art": "ART's", "foolbox": "Foolbox's", "torchattacks": "torchattacks'"}
HEADER = ("attack", "probe", "kind", "knowledge", "grey", "colour")
IMAGES = 4
BUDGET: Mapping[str, tuple[float, str]] = {
    "linf": (32 / 255, "within L-inf 32/255"),
    "l2": (2.0, "within L2 2"),
    "l1": (25.0, "within L1 25"),
}
FEWER: Mapping[str, Mapping[str, Any]] = {
    "AutoConjugateGradient": {"max_iter": 20, "nb_random_init": 1},
    "AutoProjectedGradientDescent": {"max_iter": 20, "nb_random_init": 1},
    "BoundaryAttack": {"max_iter": 50},
    "CarliniL0Method": {"binary_search_steps": 3},
    "CarliniL2Method": {"binary_search_steps": 3},
    "ElasticNet": {"binary_search_steps": 3, "max_iter": 50},
    "RescalingAutoConjugateGradient": {"max_iter": 20, "nb_random_init": 1},
    "SignOPTAttack": {"query_limit": 2000},
    "HopSkipJump": {"max_iter": 10},
    "Wasserstein": {"max_iter": 20},
    "foolbox BoundaryAttack": {"steps": 200},
    "EADAttack": {"binary_search_steps": 3, "steps": 100},
    "HopSkipJumpAttack": {"steps": 10},
    "L0BrendelBethgeAttack": {"steps": 50},
    "L1BrendelBethgeAttack": {"steps": 50},
    "L2BrendelBethgeAttack": {"steps": 50},
    "L2CarliniWagnerAttack": {"binary_search_steps": 3, "steps": 100},
    "LinfinityBrendelBethgeAttack": {"steps": 50},
    "LinearSearchBlendedUniformNoiseAttack": {"steps": 100},
    "EADEN": {"binary_search_steps": 3},
    "EADL1": {"binary_search_steps": 3},
    "torchattacks AutoAttack": {"version": "rand"},
    "Square": {"n_queries": 500},
}
"""Settings for attacks whose defaults need minutes for an image; with the family if several have the attack."""

Row = tuple[str, ...]


def subjects(folder: Path) -> tuple[Subject, Subject]:
    """Write the two models into ``folder`` and open them."""
    from auditor.reference_models import recipe

    plugins = registry.load()
    recipe("digits-cnn").train(folder, say=lambda _: None)
    return open_subject(plugins, folder / "digits-cnn.onnx", None, samples=IMAGES), colour(folder, plugins)


def colour(folder: Path, plugins: Registry) -> Subject:
    """Write the colour model into ``folder`` and open it."""
    return open_subject(plugins, *write_subject(folder), samples=IMAGES)


def measure(family: str, attack: str, given: Sequence[Subject]) -> Row:
    """Return the row of an attack of a family."""
    plugins = registry.load()
    try:
        probe_id = plugins.member_id(family, attack, "benchmark")
        plugins.has(probe_id)
    except BadInput as error:
        reason = str(error).removeprefix(f"{LIBRARIES[family]} {attack} ").partition(";")[0]
        return (attack, "", "", "", f"no: {reason}", f"no: {reason}")
    settings = dict(FEWER.get(f"{family} {attack}", FEWER.get(attack, {})))
    norm = getattr(plugins.probes[probe_id], "norm", None)
    if norm in BUDGET:
        settings["epsilons"] = [BUDGET[norm][0]]
    probe = plugins.configure(probe_id, settings, where="benchmark")
    threat = probe.threat_model()
    assert threat is not None
    kind = BUDGET[norm][1] if norm in BUDGET else "smallest perturbation"
    return (attack, f"`{probe_id}`", kind, threat.knowledge, *(outcome(probe, subject) for subject in given))


def outcome(probe: Any, subject: Subject) -> str:
    """Run the probe and count the images on which it succeeded."""
    batch = subject.batch
    try:
        columns = probe.measure(subject.classifier, batch, Randomness(0, probe.meta.id))
    except Exception as error:
        return f"no: {type(error).__name__}: {' '.join(str(error).split())[:90]}"
    attacked = int((batch.predictions == batch.labels).sum())
    broken = {int(row) for row, success in zip(columns["row"], columns["success"], strict=True) if success}
    return f"runs, {len(broken)} of {attacked}"


def document(family: str) -> Path:
    """Return the page with the table of a family."""
    return Path(__file__).parents[1] / "docs" / "reference" / DOCUMENTS[family]


def block(family: str) -> re.Pattern[str]:
    """Return the pattern of the table of a family."""
    return re.compile(rf"(<!-- {family} -->\n).*(\n<!-- /{family} -->)", re.DOTALL)


def rows(family: str) -> dict[str, Row]:
    """Return the rows of the document by attack."""
    match = block(family).search(document(family).read_text(encoding="utf-8"))
    assert match is not None
    lines = [line for line in match[0].splitlines() if line.startswith("|")][2:]
    cells = [tuple(cell.strip() for cell in line[1:-1].split("|")) for line in lines]
    return {row[0]: row for row in cells}


def write(family: str, content: Mapping[str, Row]) -> None:
    """Replace the table of the document."""
    lines = [HEADER, ("---",) * len(HEADER), *(content[name] for name in sorted(content))]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    text = document(family).read_text(encoding="utf-8")
    written = block(family).sub(lambda match: match[1] + table + match[2], text)
    document(family).write_text(written, encoding="utf-8")


def main(family: str, *names: str) -> None:
    """Measure the named attacks, or all."""
    with tempfile.TemporaryDirectory() as folder:
        given = subjects(Path(folder))
        members = registry.load().families[family].members()
        content = {name: row for name, row in rows(family).items() if name in members}
        for name in names or members:
            content[name] = measure(family, name, given)
            print(*content[name], sep=" | ", flush=True)
            write(family, content)


if __name__ == "__main__":
    main(*sys.argv[1:])
