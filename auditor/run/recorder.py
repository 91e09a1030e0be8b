"""Measure probes and keep their records: everything between a probe and the run folder."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from auditor.errors import OutOfTime
from auditor.findings.finding import ThreatModel
from auditor.findings.record import Json
from auditor.plugin.registry import Registry
from auditor.probes.base import Probe, Records, no_examples
from auditor.run.budget import Progressed
from auditor.run.folder import Cost, RunFolder
from auditor.run.manifest import records_key
from auditor.run.measuring import Measured, Measurer, Shards, run_context
from auditor.run.pace import Pace, first_guess
from auditor.run.planning import images_of
from auditor.run.request import Position, Progress
from auditor.run.selection import depends_on
from auditor.run.watch import Watch

if TYPE_CHECKING:
    import pandas as pd

    from auditor.run.distributed import Workers
    from auditor.run.local_workers import LocalWorkers


_KEPT_BYTES = 2**28
"""Size of the tables that a run keeps in memory, so that probes which need the same records do not read them again."""


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
        workers: Workers | LocalWorkers | None = None,
        watch: Watch | None = None,
    ) -> None:
        """``order`` is the random order of the image ids; ``workers`` measure instead of this process."""
        self._measurer = measurer
        self._folder = folder
        self._order = order
        self._plugins = plugins
        self._probes = probes
        self._progress = progress
        self._workers = workers
        self._watch = watch or Watch()
        self._prepared: dict[str, Probe] = {}
        self._preparation_costs: dict[str, Cost] = {}
        self._kept: dict[str, _Kept] = {}
        """By probe; the one that was read last comes last."""
        self._image_costs: dict[str, float] = {}
        """Seconds for an image by probe."""
        self.keys: dict[str, str] = {}
        """Digest of the records of each probe that was measured."""
        self.left_out: dict[str, dict[str, str]] = {
            probe.meta.id: dict(self._watch.casualties.images.get(probe.meta.id, {})) for probe in probes
        }
        """By probe: images without rows, because the model returned NaN or infinity or ended the process, and why."""
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

    def measure_for(self, probe: Probe, seconds: float, position: Position) -> Progressed:
        """Measure the images of a probe that are not on disk yet, for at most ``seconds``."""
        self._watch.check(probe.meta.id)
        ids = self.images_of(probe)
        self.key(probe, ids)
        return self.measure_rest(probe, ids, position, seconds=seconds)

    def measure_rest(
        self, probe: Probe, ids: Sequence[str], position: Position, *, seconds: float | None
    ) -> Progressed:
        """Measure the images that are not on disk yet, for at most ``seconds``.

        Records of other settings are removed once all images are measured.
        """
        probe_id, key = probe.meta.id, self.keys[probe.meta.id]
        of_all = self._measurer.images.row_keys
        image_keys = {image_id: of_all[image_id] for image_id in ids}
        self._folder.keep_rows(probe_id, key, image_keys)
        todo = self._todo(probe, ids)
        left = self._measure(probe, ids, todo, position, seconds)
        if not left:
            self._folder.drop_stale(probe_id, key)
            if todo:
                self._folder.keep_rows(probe_id, key, image_keys)
        return Progressed(len(todo) - left, left)

    def _todo(self, probe: Probe, ids: Sequence[str]) -> list[str]:
        done = self._folder.measured(probe.meta.id, self.keys[probe.meta.id]) | self.without_rows(probe)
        return [image_id for image_id in ids if image_id not in done]

    def _measure(
        self,
        probe: Probe,
        ids: Sequence[str],
        todo: Sequence[str],
        position: Position,
        seconds: float | None,
    ) -> int:
        left = len(todo)
        if seconds is not None and seconds <= 0:
            todo = []
        self._progress.begin(probe.meta.id, len(ids), position)
        self._progress.advance(len(ids) - left)
        classifier = self._measurer.classifier
        pace = Pace(
            todo,
            lambda: classifier.batch_size,
            seconds=seconds,
            clock=classifier.calls.clock,
            guess=self._image_costs.get(probe.meta.id) or first_guess(self._measurer.price),
            cut=partial(self._watch.casualties.piece, probe.meta.id),
        )
        with Shards(self._folder, probe.meta.id, self.keys[probe.meta.id], self._measurer.images.row_keys) as shards:
            if todo:
                try:
                    with classifier.calls.until(pace.deadline):
                        probe = self.prepared(probe, ids)
                except OutOfTime:
                    return left
                shards.charge(self._preparation_costs.pop(probe.meta.id, Cost()))
            for measured in self._measured(probe, pace):
                pace.finished(measured.images)
                self._image_costs[probe.meta.id] = pace.cost
                shards.add(measured)
                if not measured.images:
                    break
                self._measurer.unscored |= measured.unscored
                self.left_out.setdefault(probe.meta.id, {}).update(measured.left_out)
                left -= measured.images
                self._progress.advance(measured.images)
        return left

    def without_rows(self, probe: Probe) -> set[str]:
        """Return the images that have no rows, because the model returned NaN or infinity or ended the process."""
        return {*self._measurer.unscored, *self.left_out.get(probe.meta.id, ())}

    def prepared(self, probe: Probe, ids: Sequence[str]) -> Probe:
        """Return the probe that measures and draws. It is prepared once; the first measurement is charged for it."""
        if probe.meta.id not in self._prepared:
            calls = self._measurer.classifier.calls
            start, forward, backward = time.monotonic(), calls.forward, calls.backward
            records = self._dependencies(probe) if probe.waits else {}
            run = run_context(probe, self._probes, self._measurer, ids, records)
            self._watch.doing("prepare", probe.meta.id)
            self._prepared[probe.meta.id] = probe.prepare(run)
            cost = Cost(time.monotonic() - start, calls.forward - forward, calls.backward - backward)
            self._preparation_costs[probe.meta.id] = cost
        return self._prepared[probe.meta.id]

    def _measured(self, probe: Probe, pace: Pace) -> Iterator[Measured]:
        if self._workers is not None:
            yield from self._workers.measure(probe, iter(pace))
            return
        classifier = self._measurer.classifier
        with self._measurer.images.reading_ahead() as read_ahead:
            for piece in pace:
                read_ahead([*piece, *pace.upcoming])
                before = classifier.batch_size
                yield self._measurer.measure(probe, piece, pace.deadline)
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
            scores=classifier.artefact.gives_scores,
            features=[feature.name for feature in getattr(classifier.preprocessing, "features", ())],
            others=self._dependencies(probe),
            threats=self._threat_models(probe),
        )

    def files_of(self, probe: Probe) -> list[Json]:
        """Return what states the content of ``records``: digest and files of the probe and of those it depends on."""
        ids = [probe.meta.id, *(probe_id for probe_id in self.keys if depends_on(probe, probe_id))]
        rows: list[Json] = [[probe_id, self.keys[probe_id], *self._folder.shards(probe_id)] for probe_id in ids]
        return [*rows, [*self._folder.shards(probe.meta.id, "examples")]]

    def _dependencies(self, probe: Probe) -> dict[str, pd.DataFrame]:
        return {probe_id: self._frame(probe_id) for probe_id in self.keys if depends_on(probe, probe_id)}

    def _threat_models(self, probe: Probe) -> dict[str, ThreatModel]:
        others = [other for other in self._probes if other.meta.id in self.keys and depends_on(probe, other.meta.id)]
        return {other.meta.id: threat for other in others if (threat := other.threat_model()) is not None}

    def _frame(self, probe_id: str) -> pd.DataFrame:
        """Read the records of a probe, sorted by image id."""
        state = (self.keys[probe_id], *self._folder.shards(probe_id))
        kept = self._kept.pop(probe_id, None)
        if kept is None or kept.state != state:
            frame = self._read(probe_id)
            kept = _Kept(state, frame, int(frame.memory_usage().sum()))
        if not any(depends_on(other, probe_id) for other in self._probes if other.meta.id != probe_id):
            # its rows are read once
            return kept.frame
        self._kept[probe_id] = kept
        while len(self._kept) > 1 and sum(each.size for each in self._kept.values()) > _KEPT_BYTES:
            del self._kept[next(iter(self._kept))]
        # a probe may change the rows that it is given
        return kept.frame.copy()

    def _read(self, probe_id: str) -> pd.DataFrame:
        import numpy as np
        import pandas as pd
        import pyarrow as pa

        tables, cost = self._folder.read_shards(probe_id, self.keys[probe_id])
        # a probe that others depend on is read again; its cost then includes its example images
        self.costs.setdefault(probe_id, cost)
        if not tables:
            return pd.DataFrame({"image_id": []})
        table = pa.concat_tables(tables, promote_options="permissive")
        # each copy of the rows is freed before the next one is made
        del tables
        frame = table.to_pandas()
        del table
        pa.default_memory_pool().release_unused()
        for column in filter(lambda name: pd.api.types.is_object_dtype(frame[name]), frame):
            for cell in frame[column]:
                if isinstance(cell, np.ndarray):
                    # copies of the table share it
                    cell.flags.writeable = False
        probe = next(probe for probe in self._probes if probe.meta.id == probe_id)
        return completed(frame, probe, self._measurer.images.unit_of, self._order)


@dataclass(frozen=True)
class _Kept:
    """The rows of a probe in memory."""

    state: tuple[str, ...]
    """Digest of the records, and the shards that the rows are from."""
    frame: pd.DataFrame
    size: int
    """Bytes, without the text in it."""


def completed(
    frame: pd.DataFrame, probe: Probe, unit_of: Mapping[str, str] | None, order: Sequence[str]
) -> pd.DataFrame:
    """Return the rows of a probe with the columns that are not on disk, sorted by image id.

    Other units give other intervals without another measurement. ``order`` is the random order of the image ids.
    """
    columns = {} if unit_of is None else {"unit": frame["image_id"].map(unit_of)}
    columns["sampled"] = frame["image_id"].isin(order[: probe.samples or None])
    return frame.assign(**columns).sort_values("image_id", kind="stable", ignore_index=True)
