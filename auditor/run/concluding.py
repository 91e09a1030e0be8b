"""Measure and conclude one probe; every failure in it becomes a record."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping, Sequence
from functools import partial

from auditor.errors import NotApplicable, NotFinite, one_line
from auditor.findings.finding import Conclusion, Status
from auditor.findings.record import Json, ProbeRecord
from auditor.probes.base import Probe, Records
from auditor.run.budget import Budget
from auditor.run.examples import Examples
from auditor.run.folder import Cost, RunFolder
from auditor.run.kept_conclusions import KeptConclusions, conclusion_key
from auditor.run.measuring import Measurer
from auditor.run.planning import unmet_requirement
from auditor.run.process_state import StateGuard
from auditor.run.record import check_metrics, check_record, ignores_units, n_examined, probe_record
from auditor.run.recorder import Recorder
from auditor.run.request import Position
from auditor.run.watch import ProbeLost, Watch

_SHORTEST_DRAWING = 1.0
"""Seconds that a probe has for its pictures even after the time limit."""


def conclude(
    probe: Probe, records: Records, cost: Cost, *, measured: int, units: bool, left_out: Sequence[str], note: str
) -> ProbeRecord:
    """Return the record of a probe from its records alone, before the policy judges it.

    Args:
        probe: the probe with its settings.
        records: its rows, with those of its example images.
        cost: of measuring.
        measured: number of images with rows.
        units: whether the data states units.
        left_out: images without rows, because the model returned NaN or infinity.
        note: how many of the planned images were measured within a time limit, or empty.
    """
    conclusion = probe.conclude(records)
    if not isinstance(conclusion, Conclusion):
        raise TypeError(f"conclude returned {type(conclusion).__name__}; expected a Conclusion")
    check_metrics(conclusion.metrics)
    dependent = units and ignores_units(conclusion)
    return probe_record(
        probe,
        cost,
        conclusion=conclusion,
        n=n_examined(records, measured),
        left_out=left_out,
        caveat="its intervals assume independent images, but the data states units" if dependent else "",
        note=note,
    )


class Concluder:
    """Turns probes into records, before the policy judges them."""

    def __init__(
        self,
        measurer: Measurer,
        folder: RunFolder,
        recorder: Recorder,
        budget: Budget | None,
        *,
        broken: Mapping[str, Exception | SystemExit],
        guard: StateGuard,
        watch: Watch,
    ) -> None:
        """``budget`` limits the time for pictures; everything has been measured before, some probes are ``broken``."""
        self._broken = broken
        self._guard = guard
        self._watch = watch
        self._measurer = measurer
        self._folder = folder
        self._recorder = recorder
        self._budget = budget
        self._examples = Examples(measurer, folder)
        self._kept = KeptConclusions(folder)

    def record(self, probe: Probe, position: Position) -> ProbeRecord:
        """Return the record of one probe; an exception in it becomes a record with the status "error"."""
        error_file = f"records/{probe.meta.id}/error.txt"
        try:
            self._watch.check(probe.meta.id)
            self._watch.doing("conclude", probe.meta.id)
            unmet = unmet_requirement(probe, self._measurer.classifier, self._measurer.images)
            if unmet:
                raise NotApplicable(unmet)
            if probe.meta.id in self._broken:
                raise self._broken[probe.meta.id]
            with self._guard.unchanged(probe.meta.id):
                record = self._concluded(probe, position)
            check_record(record)
        except NotApplicable as error:
            return self._without_result(probe, status="not-applicable", reason=str(error))
        except ProbeLost as error:
            return self._without_result(probe, status="error", reason=str(error))
        except BaseException as error:
            if self._watch.ends_audit(error):
                raise
            self._folder.write(error_file, traceback.format_exc().encode())
            return self._without_result(probe, status="error", reason=one_line(error))
        (self._folder.path / error_file).unlink(missing_ok=True)
        return record

    def _concluded(self, probe: Probe, position: Position) -> ProbeRecord:
        recorder = self._recorder
        ids = recorder.images_of(probe)
        key = recorder.key(probe, ids)
        # within a time limit everything has been measured that fits
        seconds = None if self._budget is None else 0.0
        left = recorder.measure_rest(probe, ids, position, seconds=seconds).left
        self._watch.doing("conclude", probe.meta.id)
        missing = recorder.without_rows(probe) & set(ids)
        left_out = recorder.left_out.get(probe.meta.id, {})
        if left_out and len(missing) == len(ids):
            raise NotFinite(f"{next(iter(left_out.values()))} for what the probe made of every image")
        state = partial(self._conclusion_key, probe, len(missing))
        if not left and (kept := self._kept.find(probe, state)) is not None:
            return kept
        measured = recorder.records(probe)
        if ids and left == len(ids):
            return self._without_images(probe, len(ids))
        with self._measurer.classifier.calls.until(self._picture_deadline(position)):
            records, cost = self._examples.add(probe, partial(recorder.prepared, probe, ids), key, measured)
        recorder.costs[probe.meta.id] += cost
        note = ""
        if left and self._budget is not None:
            note = f"{len(ids) - left} of {len(ids)} images fitted into its share of the {self._budget.kind}"
        start = time.monotonic()
        record = conclude(
            probe,
            records,
            recorder.costs[probe.meta.id],
            measured=len(ids) - left - len(missing),
            units=self._measurer.images.units is not None,
            left_out=sorted(left_out),
            note=note,
        )
        # a time limit may have kept pictures from being drawn
        if not left and self._budget is None:
            self._kept.keep(probe, state, record, seconds=time.monotonic() - start)
        return record

    def _conclusion_key(self, probe: Probe, missing: int) -> str | None:
        """Return the digest of what the record of a probe depends on."""
        classifier, images = self._measurer.classifier, self._measurer.images
        facts: list[Json] = [
            images.sha256,
            list(classifier.classes),
            classifier.input_kind,
            classifier.artefact.gives_scores,
            self._measurer.seed,
            [*sorted(self._recorder.left_out.get(probe.meta.id, {}))],
            missing,
        ]
        return conclusion_key(probe, self._recorder.files_of(probe), facts)

    def _without_images(self, probe: Probe, wanted: int) -> ProbeRecord:
        """Return the record of a probe whose share of the time was too short for one image."""
        assert self._budget is not None
        caveat = f"none of {wanted} images was measured: one takes longer than the probe's share of {self._budget.name}"
        return probe_record(probe, self._recorder.costs.get(probe.meta.id, Cost()), caveat=caveat)

    def _picture_deadline(self, position: Position) -> float | None:
        """Return when the pictures of a probe must be drawn; every remaining probe has an equal share of the time."""
        if self._budget is None:
            return None
        share = max(0.0, self._budget.left_for_pictures) / (position.probes - position.number)
        if not self._budget.in_queries:
            share = max(_SHORTEST_DRAWING, share)
        return self._measurer.classifier.calls.clock() + share

    def _without_result(self, probe: Probe, *, status: Status, reason: str) -> ProbeRecord:
        cost = self._recorder.costs.get(probe.meta.id, Cost())
        return probe_record(probe, cost, status=status, reason=reason)
