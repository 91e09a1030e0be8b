"""The model and images that probes are checked on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Randomness

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from auditor.errors import AuditorError
from auditor.probes.base import RunContext

if TYPE_CHECKING:
    import pandas as pd

    from auditor.data.dataset import Batch
    from auditor.model.classifier import Classifier

FEW = {"iterations", "queries", "refine", "resamples", "batches", "batch_samples", "draws"}
"""Settings that determine how long a probe takes."""


class Breach(AuditorError):
    """A probe breaks a rule; the message is for its author."""


@dataclass(kw_only=True)
class Subject:
    """A model and images on which probes are checked."""

    classifier: Classifier
    images: Batch
    plugins: Registry
    _prepared: dict[str, Probe] = field(default_factory=dict)
    _first: dict[str, tuple[pd.DataFrame, Batch]] = field(default_factory=dict)

    @property
    def batch(self) -> Batch:
        """A copy of all images, so that a probe that changes its input does not affect other checks."""
        return self.images.take(range(len(self.images)))

    def prepared(self, probe: Probe) -> Any:
        """Return the probe that measures, as a run prepares it; may raise NotApplicable."""
        key = repr(probe)
        if key not in self._prepared:
            whole = self.images
            run = RunContext(
                classifier=self.classifier,
                probes=[quick(kind) for kind in self.plugins.probes.values()],
                ids=whole.ids,
                batch=lambda ids: whole.take([whole.ids.index(image_id) for image_id in ids]),
                rng=Randomness(0, probe.meta.id),
            )
            self._prepared[key] = probe.prepare(run)
        return self._prepared[key]

    def measure(self, probe: Probe, batch: Batch) -> pd.DataFrame:
        """Measure a batch and return its rows, sorted by image id."""
        import numpy as np
        import pandas as pd

        result = self.prepared(probe).measure(self.classifier, batch, Randomness(0, probe.meta.id))
        if not isinstance(result, Mapping):
            raise Breach(f"measure returned {type(result).__name__}; expected columns by name")
        columns = dict(result)
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise Breach(f"measure returned columns of different lengths: {lengths}")
        if "row" not in columns and set(lengths.values()) - {len(batch)}:
            raise Breach(f"measure returned {max(lengths.values())} rows for {len(batch)} images and no column row")
        rows = np.asarray(columns.pop("row", np.arange(len(batch))))
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(batch)):
            raise Breach(f"column row goes from {rows.min()} to {rows.max()}; the batch has {len(batch)} images")
        for name, values in columns.items():
            if isinstance(values, np.ndarray) and np.shares_memory(values, batch.pixels):
                raise Breach(f"column {name} shares memory with the batch; return a copy")
        cells = {name: list(np.asarray(values)) for name, values in columns.items()}
        frame = pd.DataFrame(cells, index=range(len(rows)))
        frame.insert(0, "image_id", [batch.ids[row] for row in rows])
        return frame.sort_values("image_id", kind="stable", ignore_index=True)

    def whole(self, probe: Probe) -> pd.DataFrame:
        """Return the rows of all images, measured once for all checks."""
        return self.first(probe)[0]

    def first(self, probe: Probe) -> tuple[pd.DataFrame, Batch]:
        """Return those rows and the batch that the probe was given, which it must not have changed."""
        key = repr(probe)
        if key not in self._first:
            batch = self.batch
            self._first[key] = self.measure(probe, batch), batch
        return self._first[key]


def quick(kind: type[Probe], few: int = 3) -> Probe:
    """Return a probe with reduced settings: two of every list of numbers, few iterations."""
    settings: dict[str, Any] = {}
    for setting in dataclasses.fields(kind):
        value = setting.default
        if isinstance(value, tuple) and len(value) > 2:
            settings[setting.name] = (value[0], value[-1])
        elif setting.name in FEW and isinstance(value, int) and not isinstance(value, bool):
            settings[setting.name] = min(value, few)
    try:
        return kind(**settings)
    except ValueError:
        # the probe refuses the reduced settings
        return kind()
