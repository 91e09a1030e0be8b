"""From image ids to rows of a probe's records, in this process; ``distributed.py`` does the same in many."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Batch, Images
from auditor.model.classifier import Classifier, is_out_of_memory
from auditor.probes.base import Probe, Randomness
from auditor.run.folder import Cost, RunFolder

if TYPE_CHECKING:
    import pyarrow as pa

_CLEAN_BYTES = 256 << 20
"""Clean predictions kept in memory; beyond it they are computed again."""

_FLUSH_SECONDS = 2.0
"""Rows wait at most this long before they are on disk."""


class Measured(NamedTuple):
    """Rows of some images, how many images, and what they cost."""

    table: pa.Table
    images: int
    cost: Cost


class Measurer:
    """A classifier and its images, ready to be measured."""

    def __init__(self, classifier: Classifier, images: Images, seed: int) -> None:
        """``seed`` is the run's."""
        self.classifier = classifier
        self.images = images
        self.seed = seed
        self._clean: dict[str, NDArray[np.float32]] = {}

    def measure(self, probe: Probe, ids: Sequence[str]) -> Measured:
        """Measure some images; where the memory does not suffice, in halves, and smaller batches from then on."""
        import pyarrow as pa

        calls = self.classifier.calls
        start, forward, backward = time.monotonic(), calls.forward, calls.backward
        try:
            batch = self.batch(ids)
            table = _table(batch, probe.measure(self.classifier, batch, Randomness(self.seed, probe.meta.id)))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(ids) == 1:
                raise
            half = len(ids) // 2
            self.classifier.batch_size = max(1, half)
            parts = [self.measure(probe, ids[:half]).table, self.measure(probe, ids[half:]).table]
            table = pa.concat_tables(parts, promote_options="permissive")
        cost = Cost(time.monotonic() - start, calls.forward - forward, calls.backward - backward)
        return Measured(table, len(ids), cost)

    def batch(self, ids: Sequence[str]) -> Batch:
        """Images with clean predictions, which are computed once for all probes."""
        pixels = self.images.pixels(ids)
        unknown = [i for i, image_id in enumerate(ids) if image_id not in self._clean]
        fresh: dict[str, NDArray[np.float32]] = {}
        if unknown:
            answers = self.classifier.predict(pixels[unknown])
            fresh = {ids[i]: answer for i, answer in zip(unknown, answers, strict=True)}
            if (len(self._clean) + len(fresh)) * answers[0].nbytes <= _CLEAN_BYTES:
                self._clean |= fresh
        probabilities = np.stack([fresh[i] if i in fresh else self._clean[i] for i in ids])
        positions = [self.images.position(image_id) for image_id in ids]
        labels = self.images.labels
        return Batch(
            ids=tuple(ids),
            pixels=pixels,
            labels=probabilities.argmax(axis=1).astype(np.int64) if labels is None else labels[positions],
            probabilities=probabilities,
            groups={name: [values[p] for p in positions] for name, values in self.images.groups.items()},
            masks=self.images.masks(ids),
        )


class Shards:
    """Rows on their way to disk: written every few seconds, and at the end whatever the end is."""

    def __init__(self, folder: RunFolder, probe_id: str, key: str) -> None:
        """Shards of a probe under the digest ``key``."""
        self._folder, self._probe_id, self._key = folder, probe_id, key
        self._waiting: list[pa.Table] = []
        self._cost = Cost()
        self._since = time.monotonic()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, measured: Measured) -> None:
        """Take rows; write when the oldest has waited long enough."""
        self._waiting.append(measured.table)
        self._cost += measured.cost
        if time.monotonic() - self._since > _FLUSH_SECONDS:
            self._flush()

    def charge(self, cost: Cost) -> None:
        """Add what was spent before the first row."""
        self._cost += cost

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            table = pa.concat_tables(self._waiting, promote_options="permissive")
            self._folder.write_shard(self._probe_id, self._key, table, self._cost)
        self._waiting, self._cost, self._since = [], Cost(), time.monotonic()


def tune(classifier: Classifier, pixels: NDArray[np.float32]) -> int:
    """The batch size at which most images a second go through, found by doubling while it pays."""
    rates: dict[int, float] = {}
    began = time.monotonic()
    for size in (32, 64, 128, 256, 512):
        piece = np.resize(pixels, (size, *pixels.shape[1:]))
        classifier.batch_size = size
        try:
            seconds = min(_timed(classifier, piece) for _ in range(2))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not rates:
                raise
            break
        if classifier.batch_size < size:
            # the memory did not suffice, and predict has found what does
            return classifier.batch_size
        rates[size] = size / seconds
        if size >= len(pixels) or time.monotonic() - began > 2.0 or rates[size] < 0.8 * max(rates.values()):
            break
    # the largest that comes within 5 % of the best: what is done once a batch weighs least
    return max(size for size, rate in rates.items() if rate >= 0.95 * max(rates.values()))


def _timed(classifier: Classifier, pixels: NDArray[np.float32]) -> float:
    """Seconds for one pass of the original and, where there is a copy, one gradient: what attacks are made of."""
    start = time.monotonic()
    classifier.predict(pixels)
    if classifier.access == "white-box":
        classifier.gradient(pixels)
    return max(time.monotonic() - start, 1e-9)


def _table(batch: Batch, columns: Mapping[str, Any]) -> pa.Table:
    """A probe's columns as rows with what every record carries."""
    import pyarrow as pa

    rows = np.asarray(columns.get("row", np.arange(len(batch))), dtype=np.int64)
    fields: dict[str, Any] = {
        "image_id": [batch.ids[row] for row in rows],
        "label": batch.labels[rows],
        "prediction": batch.predictions[rows],
    }
    fields |= {f"group:{name}": [values[row] for row in rows] for name, values in batch.groups.items()}
    for name, values in columns.items():
        if len(values) != len(rows):
            raise ValueError(f"column {name!r} has {len(values)} rows; expected {len(rows)}")
        if name != "row":
            fields[name] = list(np.asarray(values)) if np.ndim(values) > 1 else values
    return pa.table(fields)
