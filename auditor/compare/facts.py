"""Differences between the runs of a comparison other than the model, and runs that cannot be compared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import PureWindowsPath
from typing import NamedTuple

from auditor.compare.runs import Run
from auditor.errors import BadInput
from auditor.findings.comparison_record import DifferenceRecord, ImagesRecord
from auditor.findings.record import AuditRecord

_NAMED = 5
"""Classes named in an error."""


def refuse_mixed_labels(runs: Sequence[Run]) -> None:
    """Raise BadInput if only some runs have labels."""
    labelled = {run.audit["data"]["labelled"] for run in runs}
    if len(labelled) > 1:
        without = next(run for run in runs if not run.audit["data"]["labelled"])
        raise BadInput(
            f"{without.folder}: was audited without labels and another run with labels, so their accuracies mean"
            " different things; audit both models on the same data"
        )


def refuse_other_classes(runs: Sequence[Run]) -> None:
    """Raise BadInput if the runs have different classes; another order of the same classes is no obstacle.

    Labels, predictions and metrics of single classes are compared by the names of the classes.
    """
    first = runs[0]
    for run in runs[1:]:
        here, there = first.audit["model"]["classes"], run.audit["model"]["classes"]
        only = [sorted(set(here) - set(there)), sorted(set(there) - set(here))]
        if any(only) or len(here) != len(there):
            parts = [f"{name} only: {_names(each)}" for name, each in zip((first.name, run.name), only, strict=True)]
            raise BadInput(
                f"{run.folder}: the model has other classes than that of {first.folder} ({len(here)} and {len(there)};"
                f" {'; '.join(parts)}), so their accuracies mean different things; compare models of the same classes,"
                " or state the names with --classes if only the names differ"
            )


def _names(classes: Sequence[str]) -> str:
    named = ", ".join(classes[:_NAMED]) or "none"
    return named if len(classes) <= _NAMED else f"{named} and {len(classes) - _NAMED} more"


class _Fact(NamedTuple):
    """A property of a run that should be the same in all runs."""

    name: str
    value: Callable[[AuditRecord], object]
    effect: str
    """Effect of a difference."""


def _preprocessing(audit: AuditRecord) -> str:
    described = audit["model"]["input"]
    names = ("range", "mean", "std", "order", "layout")
    return json.dumps({name: described[name] for name in names if name in described})  # type: ignore[literal-required]


def _source(audit: AuditRecord, source: str | None) -> str:
    """Return a source; the name of a file next to the model without folder and model name, which always differ."""
    model = PureWindowsPath(audit["model"]["path"]).name
    if source and model in source:
        return PureWindowsPath(source).name.replace(model, "MODEL")
    return source or "not recorded"


_FACTS = (
    _Fact(
        "input",
        lambda audit: " × ".join(map(str, audit["model"]["input"]["shape"][1:])),
        "L1 and L2 sizes depend on the resolution and are not compared",
    ),
    _Fact("preprocessing", _preprocessing, "it belongs to the model; check that each is right"),
    _Fact(
        "source of the preprocessing",
        lambda audit: _source(audit, audit["model"]["input"].get("source")),
        "a guessed preprocessing can be wrong for one of the models",
    ),
    _Fact(
        "source of the class order",
        lambda audit: _source(audit, audit["model"].get("classes_source")),
        "a guessed class order can be wrong for one of the models",
    ),
    _Fact(
        "access",
        lambda audit: audit["model"]["access"],
        "attacks that need gradients ran on the white-box model only",
    ),
    _Fact(
        "scores",
        lambda audit: audit["model"]["outputs"],
        "attacks use logits where the model has them; their strength may differ",
    ),
    _Fact(
        "seed",
        lambda audit: audit["seed"],
        "random starts, noise and the sample differ; part of a difference may be chance",
    ),
    _Fact("auditor", lambda audit: audit["auditor"], "a probe may have changed between the versions"),
    _Fact(
        "policy",
        lambda audit: f"{audit['policy']['name']} {audit['policy']['sha256'][:8]}",
        "statuses and verdicts were judged by other thresholds; the numbers do not depend on the policy",
    ),
    _Fact("device", lambda audit: str(audit["environment"]["device"]), "rounding differs between devices"),
)


def differences(runs: Sequence[Run], images: ImagesRecord) -> Iterator[DifferenceRecord]:
    """Yield the differences between the runs other than the model, with their effect."""
    data = _Fact("data", lambda audit: audit["data"]["sha256"][:12], _effect_of_data(images))
    for name, value, effect in (data, *_FACTS):
        values = [value(run.audit) for run in runs]
        if len(set(values)) > 1:
            yield {"what": name, "values": [str(each)[:200] for each in values], "effect": effect}
    yield from _class_order(runs)
    models = [run.audit["model"]["sha256"][:12] for run in runs]
    if len({run.audit["model"]["sha256"] for run in runs}) == 1:
        yield {"what": "model", "values": models, "effect": "every run audited the same model file"}


def _effect_of_data(images: ImagesRecord) -> str:
    text = f"only the {images['common']} images that are the same in every run are compared"
    if images["other_bytes"]:
        text += f"; {images['other_bytes']} have different bytes under the same id"
    if images["other_label"]:
        text += f"; {images['other_label']} have different labels"
    return text


def _class_order(runs: Sequence[Run]) -> Iterator[DifferenceRecord]:
    """Yield the first position at which the orders of the classes differ."""
    orders = [run.audit["model"]["classes"] for run in runs]
    position = next((i for i, names in enumerate(zip(*orders, strict=True)) if len(set(names)) > 1), None)
    if position is not None:
        yield {
            "what": "class order",
            "values": [f"{position} = {order[position]}"[:200] for order in orders],
            "effect": "labels, predictions and metrics of single classes are compared by the names of the classes",
        }
