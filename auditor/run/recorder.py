"""Measure probes and keep their records: everything between a probe and the run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from auditor.findings.finding import ThreatModel
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Randomness, Records, RunContext, no_examples
from auditor.run.folder import Cost, RunFolder
from auditor.run.manifest import records_key
from auditor.run.measuring import Measured, Measurer, Shards
from auditor.run.planning import Measurement, Position, images_of
from auditor.run.request import Progress
from auditor.run.selection import depends_on

if TYPE_CHECKING:
    import pandas as pd

    from auditor.run.distributed import Workers


class Recorder:
    """Measures the probes of one run, resumes what an earlier run measured, and reads the records."""

    def __init__(
        self,
        measurer: Measurer,
        folder: RunFolder,
        order: Sequence[str],
        *,
        plugins: Registry,
        probes: Sequence[Probe],
        progress: Progress,
        workers: Workers | None = None,
    ) -> None:
        """``order`` is the random order of the image ids; ``workers`` measure instead of this process."""
        self._measurer = measurer
        self._folder = folder
        self._order = order
        self._plugins = plugins
        self._probes = probes
        self._progress = progress
        self._workers = workers
        self._prepared: dict[str, Probe] = {}
        self._preparation_costs: dict[str, Cost] = {}
        self.keys: dict[str, str] = {}
        """Digest of the records of each probe that was measured."""
        self.left_out: dict[str, dict[str, str]] = {}
        """By probe: images without rows, because the model returned NaN or infinity, and its error."""
        self.costs: dict[str, Cost] = {}
        """Cost of each probe whose records were read."""

    def images_of(self, probe: Probe) -> list[str]:
        """Return the ids that a probe measures."""
        return images_of(probe, self._order, self._dependencies(probe) if probe.adds_images else {})

    def key(self, probe: Probe, ids: Sequence[str]) -> str:
        """Return the digest of a probe's records, and remember it for this run."""
        measurer = self._measurer
        key = records_key(
            probe,
            ids,
            plugin_version=self._plugins.version_of(probe.meta.id),
            probes=self._probes,
            classifier=measurer.classifier,
            images=measurer.images,
            seed=measurer.seed,
        )
        self.keys[probe.meta.id] = key
        return key

    def measure_up_to(self, probe: Probe, limit: int, position: Position) -> Measurement:
        """Measure a probe up to ``limit`` of its images; the seconds exclude preparation."""
        ids = self.images_of(probe)
        key = self.key(probe, ids)
        known = self._folder.measured(probe.meta.id, key) | self.without_rows(probe)
        todo = [image_id for image_id in ids[:limit] if image_id not in known]
        if todo:
            self.prepared(probe, ids)
        start = time.monotonic()
        self._measure(probe, ids, todo, position)
        return Measurement(time.monotonic() - start, len(todo))

    def measure_rest(self, probe: Probe, ids: Sequence[str], position: Position, *, seconds: float | None) -> int:
        """Measure the images that are not on disk yet, for at most ``seconds``; return how many are left.

        At least one batch is measured if none is on disk. Records of other settings are removed once all images are
        measured.
        """
        key = self.keys[probe.meta.id]
        done = self._folder.measured(probe.meta.id, key) | self.without_rows(probe)
        todo = [image_id for image_id in ids if image_id not in done]
        if done and seconds is not None and seconds <= 0:
            todo = []
        stop = None if seconds is None else time.monotonic() + max(seconds, 0.0)
        left = self._measure(probe, ids, todo, position, stop)
        if not left:
            self._folder.drop_stale(probe.meta.id, key)
        return left

    def _measure(
        self,
        probe: Probe,
        ids: Sequence[str],
        todo: Sequence[str],
        position: Position,
        stop: float | None = None,
    ) -> int:
        key = self.keys[probe.meta.id]
        done = self._folder.measured(probe.meta.id, key) | self.without_rows(probe)
        left = sum(image_id not in done for image_id in ids)
        self._progress.begin(probe.meta.id, len(ids), *position)
        self._progress.advance(len(ids) - left)
        with Shards(self._folder, probe.meta.id, key) as shards:
            if todo:
                probe = self.prepared(probe, ids)
                shards.charge(self._preparation_costs.pop(probe.meta.id, Cost()))
            for measured in self._measured(probe, self._pieces(todo, stop)):
                shards.add(measured)
                self._measurer.unscored |= measured.unscored
                self.left_out.setdefault(probe.meta.id, {}).update(measured.left_out)
                left -= measured.images
                self._progress.advance(measured.images)
        return left

    def without_rows(self, probe: Probe) -> set[str]:
        """Return the images that have no rows, because the model returned NaN or infinity."""
        return {*self._measurer.unscored, *self.left_out.get(probe.meta.id, ())}

    def prepared(self, probe: Probe, ids: Sequence[str]) -> Probe:
        """Return the probe that measures and draws. It is prepared once; the first measurement is charged for it."""
        if probe.meta.id not in self._prepared:
            calls = self._measurer.classifier.calls
            start, forward, backward = time.monotonic(), calls.forward, calls.backward
            run = RunContext(
                classifier=self._measurer.classifier,
                probes=self._probes,
                # sorted: the preparation must not depend on the order of the data
                ids=sorted(ids),
                batch=self._measurer.batch,
                units=self._measurer.images.unit_of,
                rng=Randomness(self._measurer.seed, probe.meta.id),
            )
            self._prepared[probe.meta.id] = probe.prepare(run)
            cost = Cost(time.monotonic() - start, calls.forward - forward, calls.backward - backward)
            self._preparation_costs[probe.meta.id] = cost
        return self._prepared[probe.meta.id]

    def _pieces(self, ids: Sequence[str], stop: float | None) -> Iterator[Sequence[str]]:
        """Yield the ids batch by batch until the time is over, at least one batch."""
        start = 0
        while start < len(ids) and not (stop is not None and start and time.monotonic() > stop):
            # the batch size falls when memory runs out
            piece = ids[start : start + self._measurer.classifier.batch_size]
            yield piece
            start += len(piece)

    def _measured(self, probe: Probe, pieces: Iterator[Sequence[str]]) -> Iterator[Measured]:
        if self._workers is not None:
            yield from self._workers.measure(probe, pieces)
            return
        classifier = self._measurer.classifier
        for piece in pieces:
            before = classifier.batch_size
            yield self._measurer.measure(probe, piece)
            if classifier.batch_size < before:
                self._progress.say(f"Out of memory: the batch size is now {classifier.batch_size}")

    def records(self, probe: Probe) -> Records:
        """Read the records of a probe and of those that it depends on."""
        classifier, images = self._measurer.classifier, self._measurer.images
        return Records(
            frame=self._frame(probe.meta.id),
            examples=no_examples(),
            classes=classifier.classes,
            labelled=images.labels is not None,
            kind=classifier.input_kind,
            features=[feature.name for feature in getattr(classifier.preprocessing, "features", ())],
            others=self._dependencies(probe),
            threats=self._threat_models(probe),
        )

    def _dependencies(self, probe: Probe) -> dict[str, pd.DataFrame]:
        return {probe_id: self._frame(probe_id) for probe_id in self.keys if depends_on(probe, probe_id)}

    def _threat_models(self, probe: Probe) -> dict[str, ThreatModel]:
        others = [other for other in self._probes if other.meta.id in self.keys and depends_on(probe, other.meta.id)]
        return {other.meta.id: threat for other in others if (threat := other.threat_model()) is not None}

    def _frame(self, probe_id: str) -> pd.DataFrame:
        """Read the records of a probe, sorted by image id."""
        import pandas as pd
        import pyarrow as pa

        tables, cost = self._folder.read_shards(probe_id, self.keys[probe_id])
        # a probe that others depend on is read again; its cost then includes its example images
        self.costs.setdefault(probe_id, cost)
        if not tables:
            return pd.DataFrame({"image_id": []})
        frame = pa.concat_tables(tables, promote_options="permissive").to_pandas()
        probe = next(probe for probe in self._probes if probe.meta.id == probe_id)
        if (unit_of := self._measurer.images.unit_of) is not None:
            # not part of the rows on disk, so that other units give other intervals without another measurement
            frame["unit"] = frame["image_id"].map(unit_of)
        frame["sampled"] = frame["image_id"].isin(self._order[: probe.samples or None])
        return frame.sort_values("image_id", kind="stable", ignore_index=True)
