"""Run an audit: open, measure, conclude, judge, write.

Only the run touches files, clocks and the order of things; probes get batches and return columns. Measured rows are on
disk within seconds, so that neither Ctrl-C, ``kill -9``, a broken image, missing memory nor a broken plugin loses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from auditor.data import sample_photos
from auditor.data.dataset import Images, Pixels
from auditor.errors import BadInput, NotFinite, first_line
from auditor.findings.record import ProbeRecord
from auditor.model.deployed import DeployedModel
from auditor.model.device import pick_device, threads_for
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite, find_suite
from auditor.policy.rules import Policy, read_policy
from auditor.policy.verdict import judge, judge_all
from auditor.probes.base import Probe
from auditor.report import ReportFormat
from auditor.run.budget import Budget
from auditor.run.concluding import Concluder
from auditor.run.distributed import Workers
from auditor.run.folder import RunFolder
from auditor.run.forecast import cannot_pass
from auditor.run.manifest import write_keys, write_manifest
from auditor.run.measuring import Measurer, choose_batch_size
from auditor.run.opening import open_audit
from auditor.run.planning import Measurement, Position, measure_in_rounds, random_order, unmet_requirement
from auditor.run.record import audit_record, audit_warnings, evidence_files, left_out_warnings
from auditor.run.recorder import Recorder
from auditor.run.request import Interrupted, Outcome, Progress, Request, Silent
from auditor.run.sandbox import load_in_sandbox
from auditor.run.selection import choose_probes, selection_warnings
from auditor.run.writing import finish, pick_formats, prepare

_PARITY_IMAGES = 64
"""Images that decide between white-box and black-box; ``sanity.parity`` measures parity on all images."""

_TUNING_IMAGES = 512


def run(request: Request, progress: Progress | None = None) -> Outcome:
    """Run an audit. Raises BadInput for unusable input, Interrupted if stopped."""
    sandbox = load_in_sandbox(request.model, request.overrides, trust=request.trust_model)
    plugins = registry.load()
    suite = find_suite(request.suite, plugins)
    policy = read_policy(request.policy, plugins.probes)
    formats = pick_formats(plugins, request.formats, request.paper)
    probes = choose_probes(plugins, suite, request)
    device = pick_device(request.device)
    sandbox.finish()
    classifier, images = open_audit(plugins, request, suite, device)
    out = request.out or Path("audits") / f"{request.model.stem}-{classifier.sha256[:8]}"
    folder = RunFolder(out)
    try:
        if request.fresh:
            folder.clear()
        session = _Session(
            request=request,
            measurer=Measurer(classifier, images, request.seed),
            folder=folder,
            plugins=plugins,
            suite=suite,
            policy=policy,
            probes=probes,
            progress=progress or Silent(),
            order=random_order(images, request.seed),
            notes=selection_warnings(plugins, suite, request),
            budget=None if request.budget is None else Budget(request.budget),
        )
        with threads_for(classifier.shape):
            return session.execute(formats)
    except KeyboardInterrupt:
        raise Interrupted(out) from None
    finally:
        folder.close()


@dataclass(frozen=True, kw_only=True)
class _Session:
    """One running audit."""

    request: Request
    measurer: Measurer
    folder: RunFolder
    plugins: Registry
    suite: Suite
    policy: Policy
    probes: Sequence[Probe]
    progress: Progress
    order: Sequence[str]
    """Image ids in random order."""
    budget: Budget | None
    notes: Sequence[str]
    """Warnings about the request."""

    @property
    def classifier(self) -> DeployedModel:
        return self.measurer.classifier

    @property
    def images(self) -> Images:
        return self.measurer.images

    def execute(self, formats: Sequence[ReportFormat]) -> Outcome:
        """Measure, conclude, judge, write."""
        self._check_model()
        warnings = [*audit_warnings(self.classifier, self.images), *self.notes]
        warnings += cannot_pass(self.policy, self.probes, self.classifier, self.images)
        self._begin(warnings)
        records = self._all_records()
        late = left_out_warnings(self.measurer.unscored, records)
        for warning in late:
            self.progress.say(f"Warning: {warning}")
        warnings += late
        prepare(formats)
        records = judge_all(records, self.policy)
        self.folder.keep_evidence([file for record in records for file in evidence_files(record["findings"])])
        audit = audit_record(
            self.request,
            self.classifier,
            self.images,
            plugins=self.plugins,
            suite=self.suite,
            policy=self.policy,
            probes=records,
            warnings=warnings,
            unscored=self.measurer.unscored,
        )
        return finish(audit, self.folder, formats)

    def _check_model(self) -> None:
        """Measure parity and choose the batch size. Raises BadInput for scores that are not finite."""
        ids: Sequence[str] = self.order[:_TUNING_IMAGES]
        try:
            try:
                self._try_model(self._parity_images(), ids)
            except NotFinite:
                # some images may be to blame; without any other, it is the model
                ids = self.measurer.scored(ids)
                if not ids:
                    raise
                self._try_model(self.images.pixels(ids[:_PARITY_IMAGES]), ids)
        except (ArithmeticError, RuntimeError) as error:
            raise BadInput(
                f"{self.classifier.path}: {first_line(error)} on images of {self.images.path}; expected one finite"
                " score per class (do range, mean and std in the sidecar match the training?)"
            ) from None

    def _try_model(self, parity_images: Pixels, ids: Sequence[str]) -> None:
        self.classifier.verify(parity_images)
        choose_batch_size(self.measurer, self.request.batch_size, ids)

    def _parity_images(self) -> Pixels:
        """Return a fixed number of images, so that the access does not depend on ``--samples``.

        If the data has fewer, packaged photographs complete them. Tabular data has no substitute.
        """
        own = self.images.pixels(self.order[:_PARITY_IMAGES])
        missing = _PARITY_IMAGES - len(own)
        if missing <= 0 or self.classifier.input_kind == "rows":
            return own
        return np.concatenate([own, sample_photos.pixels(missing, self.images.shape, self.images.resizing)])

    def _begin(self, warnings: Sequence[str]) -> None:
        """Write the manifest; report warnings and broken plugins."""
        write_manifest(
            self.folder,
            self.request,
            self.classifier,
            self.images,
            probes=self.probes,
            suite=self.suite.name,
            progress=self.progress,
        )
        for warning in warnings:
            self.progress.say(f"Warning: {warning}")
        for plugin in self.plugins.broken:
            self.progress.say(f"Plugin {plugin.name} is left out: {plugin.error}")

    def _all_records(self) -> list[ProbeRecord]:
        """Measure and conclude all probes; return their records in the order of the registry."""
        ray = self.request.engine == "ray"
        workers = Workers(self.request, self.measurer, self.request.workers) if ray else None
        try:
            recorder = Recorder(
                self.measurer,
                self.folder,
                self.order,
                plugins=self.plugins,
                probes=self.probes,
                progress=self.progress,
                workers=workers,
            )
            if self.budget is not None:
                self._spend(self.budget, recorder)
            concluder = Concluder(self.measurer, self.folder, recorder, self.budget)
            records = [
                self._judged(concluder.record(probe, Position(number, len(self.probes))))
                for number, probe in enumerate(self.probes)
            ]
        finally:
            if workers is not None:
                workers.close()
        write_keys(self.folder, recorder.keys)
        for warning in dict.fromkeys(text for record in records for text in record.get("warnings", [])):
            self.progress.say(f"Warning: {warning}")
        order = list(self.plugins.probes)
        return sorted(records, key=lambda record: order.index(record["id"]))

    def _judged(self, record: ProbeRecord) -> ProbeRecord:
        """Judge a record and report its status; ``judge_all`` later applies the rules that span several probes."""
        judged = judge(record, self.policy)
        self.progress.end(judged)
        return judged

    def _spend(self, budget: Budget, recorder: Recorder) -> None:
        """Measure in rounds within the budget; probes with extra images wait until the others are done."""
        probes = [probe for probe in self.probes if not unmet_requirement(probe, self.classifier, self.images)]
        first = {probe.meta.id: probe for probe in probes if not probe.adds_images}
        wanted = {probe_id: len(recorder.images_of(probe)) for probe_id, probe in first.items()}

        def advance(probe_id: str, limit: int, position: Position) -> Measurement:
            return recorder.measure_up_to(first[probe_id], limit, position)

        done = measure_in_rounds(budget, wanted, n_later=len(probes) - len(first), advance=advance)
        short = [count for probe_id, count in done.items() if count < wanted[probe_id]]
        if short:
            self.progress.say(
                f"--budget: {len(done) - len(short)} of {len(done)} probes measured all their images, the others"
                f" {min(short)} to {max(short)} each"
            )
