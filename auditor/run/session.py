"""Run an audit: open, measure, conclude, judge, write.

Only the run touches files, clocks and the order of things; probes get batches and return columns. Measured rows are on
disk within seconds, so that neither Ctrl-C, ``kill -9``, a broken image, missing memory nor a broken plugin loses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from auditor.data import sample_photos
from auditor.data.dataset import Images, Pixels
from auditor.errors import BadInput, NotFinite, OutOfTime, first_line, one_line
from auditor.findings.record import ProbeRecord
from auditor.model.deployed import DeployedModel, Price
from auditor.model.device import pick_device, threads_for
from auditor.plugin import registry
from auditor.plugin.registry import Registry
from auditor.plugin.suite import Suite, find_suite
from auditor.policy.rules import Policy, read_policy
from auditor.policy.verdict import judge, judge_all
from auditor.probes.base import Probe
from auditor.report import ReportFormat
from auditor.run.budget import Budget, Progressed, QueryBudget, measure_in_sweeps
from auditor.run.concluding import Concluder
from auditor.run.distributed import Workers
from auditor.run.effort import reduce, too_slow
from auditor.run.expected_time import forecast
from auditor.run.folder import RunFolder
from auditor.run.forecast import cannot_pass
from auditor.run.integrity import write_digests
from auditor.run.kept_looks import keep_looks
from auditor.run.local_workers import LocalWorkers
from auditor.run.manifest import earlier_reductions, write_keys, write_manifest
from auditor.run.measuring import Measurer, choose_batch_size, measure_price
from auditor.run.opening import open_audit, open_unknown, out_folder
from auditor.run.plan import Plan, described, suite_digest, with_plan_warnings
from auditor.run.planning import random_order, unmet_requirement
from auditor.run.process_state import StateGuard
from auditor.run.publishing import publish
from auditor.run.record import audit_record, audit_warnings, evidence_files, left_out_warnings, restart_warnings
from auditor.run.recorder import Recorder
from auditor.run.request import Interrupted, Outcome, Position, Progress, Request, Silent
from auditor.run.sandbox import load_in_sandbox
from auditor.run.selection import choose_probes, selection_warnings
from auditor.run.watch import ProbeLost, Watch
from auditor.run.writing import finish, pick_formats, prepare

_PARITY_IMAGES = 64
"""Images that decide between white-box and black-box; ``sanity.parity`` measures parity on all images."""

_TUNING_IMAGES = 512


def run(request: Request, progress: Progress | None = None, watch: Watch | None = None) -> Outcome:
    """Run an audit in this process; ``supervisor.run`` runs one that a probe cannot take down.

    Raises BadInput for unusable input, Interrupted if stopped.
    """
    watch = watch or Watch()
    # the server of supervised processes has tried the model file already
    trusted = request.trust_model or watch.supervised or request.objects.model is not None
    sandbox = load_in_sandbox(request.model, request.overrides, trust=trusted)
    progress = progress or Silent()
    plugins = registry.load(partial(watch.doing, "plugin"), watch.casualties.plugins)
    watch.doing("open")
    suite = find_suite(request.suite, plugins)
    # before the files are opened, which may take a while
    budget = _budget(request, suite, watch.spent)
    policy = read_policy(request.policy, plugins.probes, policies=plugins.policies())
    formats = pick_formats(plugins, request.formats, request.paper, request.pdf)
    probes = choose_probes(plugins, suite, request)
    device = pick_device(request.device)
    sandbox.finish()
    classifier, images = open_audit(plugins, request, suite, device)
    if request.unknown is not None:
        images.unknown = open_unknown(plugins, request, suite, classifier, images)
    budget = _query_budget(request, classifier) or budget
    if classifier.artefact.endpoint is not None:
        # what repeats queries is measured at the end of the run, to see whether the endpoint changed meanwhile
        probes = sorted(probes, key=lambda probe: probe.repeats_queries)
    out = out_folder(request, classifier)
    with RunFolder(out, watch, wait=progress.say if request.wait else None) as folder:
        if request.fresh:
            folder.clear()
        for shard in folder.remove_damaged():
            progress.say(f"{out / shard} was damaged and is removed; its images are measured again.")
        session = _Session(
            request=request,
            measurer=Measurer(classifier, images, request.seed, watch),
            watch=watch,
            folder=folder,
            plugins=plugins,
            suite=suite,
            policy=policy,
            probes=probes,
            progress=progress,
            order=random_order(images.ids, request.seed),
            notes=selection_warnings(plugins, suite, request),
            budget=budget,
        )
        try:
            with threads_for(classifier.shape):
                return session.execute(formats)
        except KeyboardInterrupt:
            raise Interrupted(out) from None


def _budget(request: Request, suite: Suite, spent: float) -> Budget | None:
    """Return the time limit of the request, else that of the suite."""
    if isinstance(request.budget, float):
        return Budget(request.budget, "--budget", spent)
    if suite.time_limit is None or request.budget == "none":
        return None
    return Budget(suite.time_limit, f"suite {suite.name}; --budget changes it", spent)


def _query_budget(request: Request, classifier: DeployedModel) -> Budget | None:
    """Return the query budget of the request. Raises BadInput for options that an endpoint, or only it, has."""
    endpoint = classifier.artefact.endpoint
    if endpoint is None:
        if request.queries is not None:
            raise BadInput(f"--queries: limits the queries of an endpoint; {classifier.path} is none")
        return None
    if request.engine == "ray" or (request.workers or 1) > 1:
        raise BadInput(
            "--workers and --engine: an endpoint is queried by one process, which keeps its rate limit and counts the"
            " queries; state [endpoint] concurrency instead"
        )
    if request.queries is None:
        return None
    if isinstance(request.budget, float):
        raise BadInput("--queries and --budget: exclude each other; leave one out")
    endpoint.limit = request.queries
    classifier.calls.clock = lambda: endpoint.queries
    return QueryBudget(request.queries, classifier.calls.clock)


@dataclass(frozen=True, kw_only=True)
class _Session:
    """One running audit."""

    request: Request
    measurer: Measurer
    watch: Watch
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

    @property
    def _in_queries(self) -> bool:
        """Whether a number of queries limits the run instead of a time."""
        return self.budget is not None and self.budget.in_queries

    def execute(self, formats: Sequence[ReportFormat]) -> Outcome:
        """Measure, conclude, judge, write."""
        self._check_model()
        if not self.watch.casualties.restarts:
            for line in self._forecast():
                self.progress.say(line)
        slow = self._too_slow()
        if slow:
            probes = reduce(self.probes, slow, self.suite, self.plugins)
            return replace(self, probes=probes)._measure_and_write(formats, slow)
        return self._measure_and_write(formats, [])

    def _too_slow(self) -> list[str]:
        """Return the probes that need smaller settings; the same as in an earlier run of this folder."""
        if self.budget is None or self.budget.in_queries:
            return []
        known = earlier_reductions(self.folder, self.suite.name, self.budget.seconds)
        if known is not None:
            return known
        return too_slow(
            self.probes, self.suite, self.measurer, self.order, seconds=self.budget.left, progress=self.progress
        )

    def _measure_and_write(self, formats: Sequence[ReportFormat], slow: Sequence[str]) -> Outcome:
        warnings = [*audit_warnings(self.classifier, self.images), *self.notes]
        warnings += cannot_pass(self.policy, self.probes, self.classifier, self.images)
        if self.budget is not None and slow:
            warnings.append(
                f"Within {self.budget.name}, one image takes too long for {len(slow)} probes, which therefore run"
                f" with the suite's smaller settings: {', '.join(slow)}."
            )
        plan = self._begin(warnings, slow)
        records = self._all_records()
        late = [
            *left_out_warnings(self.measurer.unscored, records, self.watch.casualties.images),
            *restart_warnings(self.watch.casualties),
        ]
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
            plan=described(plan),
            digests=write_digests(self.folder, suite_digest(self.suite)),
            probes=records,
            warnings=warnings,
            unscored=self.measurer.unscored,
            watch=self.watch,
        )
        outcome = finish(with_plan_warnings(audit), self.folder, formats, self.watch)
        return publish(self.plugins, outcome, self.watch)

    def _check_model(self) -> None:
        """Measure parity and choose the batch size. Raises BadInput for scores that are not finite."""
        ids: Sequence[str] = self.order[:_TUNING_IMAGES]
        try:
            try:
                if self.watch.casualties.suspect_model:
                    raise NotFinite("an earlier process ended during this check")
                self._try_model(self._parity_images(), ids)
            except NotFinite:
                # some images may be to blame; without any other, it is the model
                ids = self.measurer.scored(ids)
                if not ids:
                    raise
                self._try_model(self.images.pixels(ids[:_PARITY_IMAGES]), ids)
        except OutOfTime:
            raise BadInput(
                f"--queries {self.request.queries}: does not suffice for the first batch of images; allow more"
            ) from None
        except (ArithmeticError, RuntimeError) as error:
            raise BadInput(
                f"{self.classifier.path}: {first_line(error)} on images of {self.images.path}; expected one finite"
                " score per class (do range, mean and std in the sidecar match the training?)"
            ) from None

    def _try_model(self, parity_images: Pixels, ids: Sequence[str]) -> None:
        self.watch.doing("check")
        self.classifier.verify(parity_images)
        choose_batch_size(self.measurer, self.request.batch_size, ids)
        if self._in_queries:
            self.measurer.price = Price(1.0, 0.0)
        else:
            measure_price(self.measurer, ids)

    def _parity_images(self) -> Pixels:
        """Return a fixed number of images, so that the access does not depend on ``--samples``.

        If the data has fewer, packaged photographs complete them. Tabular data has no substitute.
        """
        own = self.images.pixels(self.order[:_PARITY_IMAGES])
        missing = _PARITY_IMAGES - len(own)
        if missing <= 0 or self.classifier.input_kind == "rows":
            return own
        return np.concatenate([own, sample_photos.pixels(missing, self.images.shape, self.images.resizing)])

    def _begin(self, warnings: Sequence[str], slow: Sequence[str]) -> Plan:
        """Write the manifest; report warnings and broken plugins. Returns the plan of the run."""
        plan = write_manifest(
            self.folder,
            self.request,
            self.classifier,
            self.images,
            probes=self.probes,
            suite=self.suite,
            policy=self.policy,
            time_limit=None if self.budget is None or self.budget.in_queries else self.budget.seconds,
            reduced=slow,
            progress=self.progress,
        )
        keep_looks(self.folder, "images", self.images)
        if self.images.unknown is not None:
            keep_looks(self.folder, "unknown", self.images.unknown)
        for warning in warnings:
            self.progress.say(f"Warning: {warning}")
        for plugin in self.plugins.broken:
            self.progress.say(f"Plugin {plugin.title} is left out: {plugin.error}")
        return plan

    def _forecast(self) -> list[str]:
        """Return what is said about the time before the start; images of an earlier run are not counted."""
        if self._in_queries:
            # an endpoint's limit is its number of queries
            return []
        probes = [probe for probe in self.probes if not unmet_requirement(probe, self.classifier, self.images)]
        lines = forecast(probes, self.measurer.price, len(self.images), self.budget)
        if self.folder.has_records:
            lines.append("Images that an earlier run of this folder measured are not measured again.")
        return lines

    def _all_records(self) -> list[ProbeRecord]:
        """Measure and conclude all probes; return their records in the order of the registry."""
        workers = self._workers()
        try:
            recorder = Recorder(
                self.measurer,
                self.folder,
                self.order,
                plugins=self.plugins,
                probes=self.probes,
                progress=self.progress,
                workers=workers,
                watch=self.watch,
            )
            guard = StateGuard(self.classifier, self.folder)
            broken: dict[str, Exception | SystemExit] = {}
            if self.budget is not None:
                broken = self._spend(self.budget, recorder, guard)
            concluder = Concluder(
                self.measurer,
                self.folder,
                recorder,
                self.budget,
                broken=broken,
                guard=guard,
                watch=self.watch,
            )
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

    def _workers(self) -> Workers | LocalWorkers | None:
        """Start the workers that measure instead of this process."""
        count = self.request.workers
        if self.request.engine == "ray":
            return Workers(
                self.request,
                self.measurer,
                plugins=self.plugins,
                probes=self.probes,
                suite=self.suite,
                watch=self.watch,
                say=self.progress.say,
            )
        return None if count is None or count == 1 else LocalWorkers(self.request, self.measurer, count, self.watch)

    def _judged(self, record: ProbeRecord) -> ProbeRecord:
        """Judge a record and report its status; ``judge_all`` later applies the rules that span several probes."""
        judged = judge(record, self.policy)
        self.progress.end(judged)
        return judged

    def _spend(self, budget: Budget, recorder: Recorder, guard: StateGuard) -> dict[str, Exception | SystemExit]:
        """Measure within the budget; probes that read the records of others wait until those are done.

        Returns the exceptions of the probes that broke.
        """
        probes = {
            probe.meta.id: probe for probe in self.probes if not unmet_requirement(probe, self.classifier, self.images)
        }
        later = [probe_id for probe_id, probe in probes.items() if probe.adds_images or probe.waits]
        first = [probe_id for probe_id in probes if probe_id not in later]

        def advance(probe_id: str, seconds: float, number: int, count: int) -> Progressed:
            position = Position(number, count) if budget.in_queries else Position(number, count, seconds, budget.left)
            try:
                with guard.unchanged(probe_id):
                    return recorder.measure_for(probes[probe_id], seconds, position)
            except BaseException as error:
                if isinstance(error, Exception) or self.watch.ends_audit(error):
                    raise
                raise ProbeLost(one_line(error)) from error

        broken = measure_in_sweeps(budget, first, n_later=len(later), advance=advance)
        return broken | measure_in_sweeps(budget, later, n_later=0, advance=advance)
