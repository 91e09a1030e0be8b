"""Measure batches of images with a probe, in this process; ``distributed.py`` does the same in several."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Batch, Images
from auditor.errors import NotFinite, OutOfTime, first_line, is_out_of_memory
from auditor.model.deployed import DeployedModel, Price
from auditor.model.device import finish, free_memory
from auditor.probes.base import Probe, Randomness, RunContext
from auditor.run.casualties import MODEL
from auditor.run.folder import IMAGE_KEY, Cost, RunFolder
from auditor.run.process_state import unchanged_batch
from auditor.run.watch import Watch

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_CLEAN_BYTES = 256 << 20
"""Memory for clean predictions in bytes; further predictions are computed again."""

_SMALLEST, _LARGEST_ON_CPU = 32, 512
"""Batch sizes between which the fastest is searched; on a GPU, only memory and the number of images limit it."""

_FEW, _SLOW_SECONDS = 8, 0.25
"""Images on which a pass is priced, and the seconds for their passes above which no more are tried."""

_FLUSH_SECONDS = 2.0
"""Longest time that rows wait before they are written."""


RESERVED = ("image_id", IMAGE_KEY, "label", "prediction", "unit", "sampled")
"""Columns that the run adds to those of a probe."""


class Measured(NamedTuple):
    """Rows of a probe, the number of images, the cost, and the images without rows."""

    table: pa.Table | None
    """None if no image has rows."""
    images: int
    cost: Cost
    unscored: Mapping[str, str]
    """Images for which the model returns NaN or infinity, and its error."""
    left_out: Mapping[str, str]
    """Images for which it does so on what the probe makes of them, such as an adversarial image."""


class Measurer:
    """Measures probes on a classifier and its images."""

    def __init__(self, classifier: DeployedModel, images: Images, seed: int, watch: Watch | None = None) -> None:
        """``seed`` is the seed of the run."""
        self.classifier = classifier
        self._watch = watch or Watch()
        self.images = images
        self.seed = seed
        self._clean: dict[str, NDArray[np.float32]] = {}
        self.price = Price(0.0, 0.0)
        self.unscored: dict[str, str] = dict(self._watch.casualties.images.get(MODEL, {}))
        """Images for which the model returns NaN or infinity or ends the process, and why; no batch holds them."""

    def begin(self, probe: Probe) -> None:
        """Say that a probe is about to be prepared. Raises ProbeLost if it ended an earlier process."""
        self._watch.check(probe.meta.id)
        self._watch.doing("prepare", probe.meta.id)

    def measure(self, probe: Probe, ids: Sequence[str], deadline: float | None = None) -> Measured:
        """Measure images; on out-of-memory, split the batch in half and keep the smaller batch size.

        At the ``deadline``, a time by ``time.monotonic``, the batch is abandoned: the result has no images.

        A batch in which the model returns NaN or infinity is split, too, until the images in question are left out: an
        answer that does not exist is neither a success of an attack nor a failure.
        """
        self._watch.check(probe.meta.id)
        calls = self.classifier.calls
        start, forward, backward = time.monotonic(), calls.forward, calls.backward
        rows = None
        with suppress(OutOfTime), calls.until(deadline):
            rows = self._rows(probe, ids)
        cost = Cost(time.monotonic() - start, calls.forward - forward, calls.backward - backward)
        if rows is None:
            return Measured(None, 0, cost, {}, {})
        table, left_out = rows
        unscored = {image_id: self.unscored[image_id] for image_id in ids if image_id in self.unscored}
        return Measured(table, len(ids), cost, unscored, left_out)

    def _rows(self, probe: Probe, ids: Sequence[str]) -> tuple[pa.Table | None, dict[str, str]]:
        """Return the rows of images, and why some have none."""
        import pyarrow as pa

        batch: Batch | None = None
        self._watch.doing("measure", probe.meta.id, ids)
        try:
            batch = self.batch(ids)
            with unchanged_batch(batch), self._fresh(probe):
                columns = probe.measure(self.classifier, batch, Randomness(self.seed, probe.meta.id))
            return _table(batch, columns), {}
        except NotFinite as error:
            if batch is None:
                return None, {}
            if len(batch) == 1:
                return None, {batch.ids[0]: first_line(error)}
            ids = batch.ids
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or len(ids) == 1:
                raise
            self.classifier.batch_size = max(1, len(ids) // 2)
        # after the except clause: an exception keeps the tensors of all frames that it left
        batch = None
        free_memory()
        half = len(ids) // 2
        parts = [self._rows(probe, ids[:half]), self._rows(probe, ids[half:])]
        tables = [table for table, _ in parts if table is not None]
        table = pa.concat_tables(tables, promote_options="permissive") if tables else None
        return table, parts[0][1] | parts[1][1]

    def _fresh(self, probe: Probe) -> AbstractContextManager[None]:
        """Let an endpoint answer again if the probe repeats queries."""
        endpoint = self.classifier.artefact.endpoint
        return endpoint.fresh() if endpoint is not None and probe.repeats_queries else nullcontext()

    def batch(self, ids: Sequence[str]) -> Batch:
        """Return images with their clean predictions; images without finite scores are left out."""
        clean = self._predicted(ids)
        if not clean:
            raise NotFinite("the model returned NaN or infinity for every image")
        ids = [image_id for image_id in ids if image_id in clean]
        pixels = self.images.pixels(ids)
        probabilities = np.stack([clean[image_id] for image_id in ids])
        positions = [self.images.position(image_id) for image_id in ids]
        labels = self.images.labels
        return Batch(
            ids=tuple(ids),
            pixels=pixels,
            labels=probabilities.argmax(axis=1).astype(np.int64) if labels is None else labels[positions],
            probabilities=probabilities,
            groups={name: [values[p] for p in positions] for name, values in self.images.groups.items()},
            masks=self.images.masks(ids),
            epsilons=None if self.images.epsilons is None else self.images.epsilons[positions],
        )

    def scored(self, ids: Sequence[str]) -> list[str]:
        """Return the images for which the model returns finite scores; the others are added to ``unscored``."""
        return list(self._predicted(ids))

    def _predicted(self, ids: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        """Return the clean predictions of images with finite scores; they are computed once for all probes."""
        ids = [image_id for image_id in ids if image_id not in self.unscored]
        unknown = [image_id for image_id in ids if image_id not in self._clean]
        if not unknown:
            return {image_id: self._clean[image_id] for image_id in ids}
        together = self._watch.casualties.piece(MODEL, unknown, len(unknown))
        if len(together) < len(unknown):
            return self._predicted(together) | self._predicted([each for each in ids if each not in set(together)])
        pixels = self.images.pixels(unknown)
        try:
            with self._watch.during("predict", MODEL, unknown):
                fresh: dict[str, NDArray[np.float32]] | None = dict(
                    zip(unknown, self.classifier.predict(pixels), strict=True)
                )
        except NotFinite as error:
            if len(unknown) == 1:
                self.unscored[unknown[0]] = first_line(error)
                return {image_id: self._clean[image_id] for image_id in ids if image_id in self._clean}
            fresh = None
        if fresh is None:
            half = len(ids) // 2
            return self._predicted(ids[:half]) | self._predicted(ids[half:])
        if (len(self._clean) + len(fresh)) * fresh[unknown[0]].nbytes <= _CLEAN_BYTES:
            self._clean |= fresh
        return {image_id: fresh[image_id] if image_id in fresh else self._clean[image_id] for image_id in ids}


def run_context(
    probe: Probe,
    probes: Sequence[Probe],
    measurer: Measurer,
    ids: Sequence[str],
    records: Mapping[str, pd.DataFrame] | None = None,
) -> RunContext:
    """Return what a probe may read to prepare itself for these images."""
    return RunContext(
        classifier=measurer.classifier,
        probes=probes,
        # sorted: the preparation must not depend on the order of the data
        ids=sorted(ids),
        batch=measurer.batch,
        units=measurer.images.unit_of,
        unknown=measurer.images.unknown if "unknown" in probe.meta.needs else None,
        augmentations=measurer.images.augmentations if "augmentations" in probe.meta.needs else None,
        rng=Randomness(measurer.seed, probe.meta.id),
        records=records or {},
    )


class Shards:
    """Writes rows to disk every few seconds and at the end, also after an exception."""

    def __init__(self, folder: RunFolder, probe_id: str, key: str, image_keys: Mapping[str, str]) -> None:
        """Write shards of a probe under the digest ``key``; ``image_keys`` are the digests of the images by id."""
        self._folder, self._probe_id, self._key, self._image_keys = folder, probe_id, key, image_keys
        self._waiting: list[pa.Table] = []
        self._cost = Cost()
        self._since = time.monotonic()

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()

    def add(self, measured: Measured) -> None:
        """Add rows; write all of them if the oldest have waited long enough."""
        if measured.table is not None:
            self._waiting.append(measured.table)
        self._cost += measured.cost
        if time.monotonic() - self._since > _FLUSH_SECONDS:
            self._flush()

    def charge(self, cost: Cost) -> None:
        """Add the cost of work before the first row."""
        self._cost += cost

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            table = pa.concat_tables(self._waiting, promote_options="permissive")
            digests = pa.array([self._image_keys[name] for name in table["image_id"].to_pylist()], pa.string())
            table = table.append_column(IMAGE_KEY, digests)
            self._folder.write_shard(self._probe_id, self._key, table, self._cost)
        self._waiting, self._cost, self._since = [], Cost(), time.monotonic()


def choose_batch_size(measurer: Measurer, wanted: int | None, ids: Sequence[str]) -> None:
    """Set the batch size to ``wanted``, or to the fastest one for these images; a file may have a fixed batch size."""
    classifier = measurer.classifier
    if classifier.fixed_batch:
        return
    endpoint = classifier.artefact.endpoint
    if endpoint is not None:
        # no search: every trial would cost queries
        classifier.batch_size = wanted or endpoint.batch_size
        return
    if wanted:
        classifier.batch_size = wanted
        return
    largest = None if classifier.device == "cpu" else len(measurer.images)
    classifier.batch_size = tune(classifier, measurer.images.pixels(ids), largest)
    classifier.calls.forward = classifier.calls.backward = 0


def measure_price(measurer: Measurer, ids: Sequence[str]) -> None:
    """Set the price of a pass: the best of two on a few of these images, or on more if the model is fast."""
    classifier = measurer.classifier
    for images in (_FEW, _SMALLEST):
        pixels = measurer.images.pixels(ids[: min(classifier.batch_size, images)])
        # the best, because other processes only add to the time
        forward, gradient = (min(times) for times in zip(*(_timed(classifier, pixels) for _ in range(2)), strict=True))
        measurer.price = Price(forward / len(pixels), gradient / len(pixels))
        if forward + gradient > _SLOW_SECONDS:
            break
    classifier.calls.forward = classifier.calls.backward = 0


def tune(classifier: DeployedModel, pixels: NDArray[np.float32], largest: int | None = None) -> int:
    """Return the batch size with the highest throughput, found by doubling.

    Args:
        classifier: the model.
        pixels: images (n, c, h, w); they are repeated for batches of more than n.
        largest: size after which no larger one is tried, by default 512 or n; memory may end the search earlier.
    """
    largest = largest or min(_LARGEST_ON_CPU, len(pixels))
    rates: dict[int, float] = {}
    began = time.monotonic()
    size = _SMALLEST
    while True:
        piece = np.resize(pixels, (size, *pixels.shape[1:]))
        classifier.batch_size = size
        try:
            seconds = min(sum(_timed(classifier, piece)) for _ in range(2))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not rates:
                raise
            break
        if classifier.batch_size < size:
            # memory ran out; predict has found a size that fits
            return classifier.batch_size
        rates[size] = size / seconds
        if size >= largest or time.monotonic() - began > 2.0 or rates[size] < 0.8 * max(rates.values()):
            break
        size *= 2
    free_memory()
    # the largest size within 5 % of the best: the cost per batch counts least
    return max(size for size, rate in rates.items() if rate >= 0.95 * max(rates.values()))


def _timed(classifier: DeployedModel, pixels: NDArray[np.float32]) -> tuple[float, float]:
    """Return the seconds of a prediction and, on a white-box model, of a gradient: the parts of an attack."""
    start = time.monotonic()
    classifier.predict(pixels)
    # a GPU computes after the call returned
    finish(classifier.device)
    between = time.monotonic()
    if classifier.access == "white-box":
        classifier.gradient(pixels)
        finish(classifier.device)
    return max(between - start, 1e-9), time.monotonic() - between


def _checked_rows(columns: Mapping[str, Any], size: int) -> NDArray[np.int64]:
    """Return the image of each row as an index of the batch."""
    rows = np.asarray(columns.get("row", np.arange(size)))
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise ValueError(f"column 'row' has the type {rows.dtype}{list(rows.shape)}; expected one whole number per row")
    outside = rows[(rows < 0) | (rows >= size)]
    if len(outside):
        raise ValueError(f"column 'row' has the value {outside[0]}; expected indices of the batch, 0 to {size - 1}")
    return rows.astype(np.int64)


def _table(batch: Batch, columns: Mapping[str, Any]) -> pa.Table:
    """Convert a probe's columns to rows with the columns of every record. Raises ValueError for unusable columns."""
    import pyarrow as pa

    rows = _checked_rows(columns, len(batch))
    fields: dict[str, Any] = {
        "image_id": [batch.ids[row] for row in rows],
        "label": batch.labels[rows],
        "prediction": batch.predictions[rows],
    }
    fields |= {f"group:{name}": [values[row] for row in rows] for name, values in batch.groups.items()}
    for name, values in columns.items():
        if name in RESERVED or name.startswith("group:"):
            raise ValueError(f"column {name!r} is reserved: the run adds it; choose another name")
        if len(values) != len(rows):
            raise ValueError(f"column {name!r} has {len(values)} rows; expected {len(rows)}")
        if name != "row":
            fields[name] = list(np.asarray(values)) if np.ndim(values) > 1 else values
    return pa.table(fields)
