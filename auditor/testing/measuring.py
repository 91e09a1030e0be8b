"""Measure and conclude without a run, for the tests of a probe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from auditor.conformance.subject import Subject
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Records, no_examples
from auditor.testing.classifiers import Known

if TYPE_CHECKING:
    from auditor.findings.finding import Conclusion


def measure(probe: Probe, known: Known) -> Records:
    """Return the records of a probe, prepared and measured on the images of ``known`` as in a run with seed 0."""
    batch = known.batch
    alone = Registry(pluggy.PluginManager("auditor"), probes={probe.meta.id: type(probe)})
    frame = Subject(classifier=known.classifier, images=batch, plugins=alone).measure(probe, batch)
    rows = [batch.ids.index(image_id) for image_id in frame["image_id"]]
    run_columns = {
        "label": batch.labels[rows],
        "prediction": batch.predictions[rows],
        "sampled": True,
        **{f"group:{name}": [values[row] for row in rows] for name, values in batch.groups.items()},
    }
    return Records(
        frame=frame.assign(**run_columns),
        examples=no_examples(),
        classes=known.classifier.classes,
        labelled=True,
    )


def conclude(probe: Probe, known: Known) -> Conclusion:
    """Return what a probe concludes from its records on ``known``."""
    return probe.conclude(measure(probe, known))
