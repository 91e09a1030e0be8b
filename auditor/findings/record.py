"""Types of audit.json: the record that the run writes and that policy, reports and comparison read.

``auditor/schemas/audit.schema.json`` is the published contract; a test keeps both in agreement. Keys under
``NotRequired`` are missing from the records of older versions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NotRequired, TypeAlias, TypedDict

from auditor.findings.finding import Area, Severity, Status
from auditor.findings.metric import Better, Bound, Scalar, Unit

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"
"""Any JSON value."""

Verdict = Literal["pass", "fail", "incomplete"]
NumberFormat = Literal["text", "number", "percent", "n/255", "count"]


class MetricSpecRecord(TypedDict):
    """What a metric means, as its probe declares it (``MetricSpec``)."""

    name: str
    label: str
    better: Better
    unit: Unit | Literal["norm"]
    bound: Bound
    difference: bool
    monotone: NotRequired[str]


class IntervalRecord(TypedDict):
    """A value with the ends of its 95 % interval."""

    value: float | None
    low: float | None
    high: float | None


class MetricRecord(IntervalRecord):
    """One measured number (``Metric``)."""

    name: str
    n: int
    unit: Unit
    at: dict[str, Scalar]
    clean: NotRequired[float]
    """The accuracy on the same images without the perturbation."""
    units: NotRequired[int | None]
    """Number of units, if the interval is over units."""


class AxisRecord(TypedDict):
    """An axis of a curve or a scatter plot."""

    label: str
    unit: str
    scale: Literal["linear", "log", "symlog"]
    format: Literal["number", "percent", "n/255"]
    low: float | None
    high: float | None


class PointRecord(TypedDict):
    """One point of a curve or a scatter plot, with the interval of ``y``."""

    x: float
    y: float | None
    low: float | None
    high: float | None
    n: int | None


class SeriesRecord(TypedDict):
    """A named line of a curve, or a named cloud of a scatter plot."""

    name: str
    points: list[PointRecord]


class CurveRecord(TypedDict):
    """Lines with interval bands."""

    kind: Literal["curve"]
    title: str
    x: AxisRecord
    y: AxisRecord
    series: list[SeriesRecord]
    caption: str


class ScatterRecord(TypedDict):
    """Clouds of points."""

    kind: Literal["scatter"]
    title: str
    x: AxisRecord
    y: AxisRecord
    series: list[SeriesRecord]
    caption: str


CellRecord = Scalar | IntervalRecord
"""A table cell: a scalar, or a number with its interval."""


class TableRecord(TypedDict):
    """Rows under named columns."""

    kind: Literal["table"]
    title: str
    columns: list[str]
    rows: list[list[CellRecord]]
    formats: list[NumberFormat]
    caption: str


class PictureRecord(TypedDict):
    """One cell of an image grid."""

    file: str | None
    caption: str
    alt: str
    heat: list[list[float]] | None


class GridRowRecord(TypedDict):
    """A row of an image grid."""

    label: str
    cells: list[PictureRecord]


class ImageGridRecord(TypedDict):
    """Images in rows under named columns."""

    kind: Literal["image-grid"]
    title: str
    columns: list[str]
    rows: list[GridRowRecord]
    caption: str


class HeatMapRecord(TypedDict):
    """A matrix of numbers as colours."""

    kind: Literal["heat-map"]
    title: str
    values: list[list[float | None]]
    row_labels: list[str]
    column_labels: list[str]
    row_title: NotRequired[str]
    column_title: NotRequired[str]
    format: Literal["number", "percent", "count"]
    diverging: bool
    caption: str


class TextRecord(TypedDict):
    """A paragraph of plain text."""

    kind: Literal["text"]
    title: str
    text: str


PlotRecord = CurveRecord | ScatterRecord
EvidenceRecord = CurveRecord | ScatterRecord | TableRecord | ImageGridRecord | HeatMapRecord | TextRecord
"""Evidence, told apart by ``kind``."""


class FindingRecord(TypedDict):
    """One claim with its number and evidence (``Finding``)."""

    id: str
    title: str
    statement: str
    severity: Severity
    accepted: NotRequired[bool]
    """True for a failure that the policy accepts."""
    metric: MetricRecord | None
    n: NotRequired[int | None]
    """Number of images of a finding without a metric; records of older versions lack it."""
    evidence: list[EvidenceRecord]


class ThreatModelRecord(TypedDict):
    """The attacker's goal, knowledge and budget (``ThreatModel``)."""

    goal: str
    knowledge: Literal["white-box", "black-box", "none"]
    norm: str
    budget: str


class ModelCallsRecord(TypedDict):
    """Images through the network."""

    forward: int
    backward: int


class AcceptanceRecord(TypedDict):
    """A failure that the policy accepts, with its justification and expiry date."""

    probe: str
    severity: Severity
    """The worst outcome that is accepted."""
    justification: str
    author: str
    expires: str
    metric: str
    at: dict[str, Json]


class AppliedAcceptanceRecord(AcceptanceRecord):
    """An acceptance that covers a failure of this probe."""

    found: Severity
    reason: str


class AcceptanceStateRecord(AcceptanceRecord):
    """An acceptance of the policy and whether it applied to this audit."""

    state: Literal["holds", "expired", "unused"]


class JudgementRecord(TypedDict):
    """One rule of the policy applied to one metric."""

    metric: str
    at: dict[str, Scalar]
    status: Literal["pass", "fail", "inconclusive"]
    severity: Severity
    reason: str
    side: NotRequired[Literal["at_least", "at_most", "at_most_lost"]]
    limit: NotRequired[float]
    """The threshold that a pass must clear."""
    rationale: NotRequired[str]
    """What a failure means."""
    source: NotRequired[str]


class ProbeRecord(TypedDict):
    """One probe: status, metrics, findings and what measuring took."""

    id: str
    title: str
    why: NotRequired[str]
    area: Area
    status: Status
    severity: Severity
    reason: str
    caveat: NotRequired[str]
    """Why a pass of this probe is inconclusive; empty without such a reason."""
    note: NotRequired[str]
    """How many of the planned images were measured within a time limit; part of the reason."""
    left_out: NotRequired[list[str]]
    """Images for which the model returned NaN or infinity on what the probe made of them."""
    accepted: NotRequired[list[AppliedAcceptanceRecord]]
    warnings: NotRequired[list[str]]
    """Assumptions of the audit that the records of this probe contradict."""
    invalidated_by: NotRequired[str]
    """Id of the failed check after which the numbers of this probe mean nothing."""
    judgements: NotRequired[list[JudgementRecord]]
    """Every metric that a rule of the policy judged; records of older versions lack them."""
    n: int
    threat_model: ThreatModelRecord | None
    seconds: float
    model_calls: ModelCallsRecord
    settings: dict[str, Json]
    references: list[str]
    metric_specs: NotRequired[list[MetricSpecRecord]]
    metrics: list[MetricRecord]
    findings: list[FindingRecord]


class FeatureRecord(TypedDict):
    """A column of tabular data that the model sees, in its own unit."""

    name: str
    low: float
    high: float
    deviation: float
    whole: bool


class InputRecord(TypedDict):
    """The model's input and its preprocessing."""

    shape: list[int | None]
    dtype: str
    layout: Literal["nchw", "nhwc", "rows"]
    features: NotRequired[list[FeatureRecord]]
    range: list[float]
    mean: list[float]
    std: list[float]
    order: NotRequired[Literal["rgb", "bgr"]]
    source: NotRequired[str]


class OutputRecord(TypedDict, total=False):
    """Which output holds the scores, and its final activation."""

    name: str | None
    ends_in: Literal["none", "softmax", "log-softmax", "sigmoid"]
    single: bool


class ParityRecord(TypedDict):
    """How far the differentiable copy agrees with the deployed model."""

    n: int
    max_abs_difference: float | None
    label_agreement: float | None


class ReviewRecord(TypedDict, total=False):
    """What people state about a review (``Review``)."""

    owner: str
    reviewer: str
    intended_use: str
    limits: str
    data_version: str
    sign_off: list[str]


class ModelRecord(TypedDict):
    """The audited model file."""

    path: str
    sha256: str
    format: str
    access: Literal["white-box", "black-box"]
    access_reason: str
    runtime: str
    input: InputRecord
    outputs: Literal["logits", "probabilities"]
    output: NotRequired[OutputRecord]
    classes: list[str]
    classes_source: NotRequired[str]
    parity: ParityRecord | None
    review: NotRequired[ReviewRecord | None]
    """What the sidecar states about the review."""
    endpoint: NotRequired[EndpointRecord | None]
    """None for a model that runs in this process."""


class EndpointRecord(TypedDict):
    """The queries of a model behind an endpoint, by the process that wrote the record."""

    protocol: str
    url: str
    model: str
    returns: Literal["probabilities", "logits", "labels"]
    queries: int
    """Images sent, those of repeated requests included."""
    requests: int
    retries: int
    cached: int
    """Images whose answer was known from an earlier query."""
    unanswered: int


class SkippedRecord(TypedDict):
    """What was found with the data and is not part of it, for one reason."""

    reason: str
    n: int
    names: list[str]


class UnitsRecord(TypedDict):
    """The units that the images belong to: patients, persons, videos."""

    name: str
    """The column that names them."""
    n: int


class BenchmarkRecord(TypedDict):
    """The benchmark of the Hugging Face Hub that the data is."""

    id: str
    task_id: str


class UnknownRecord(TypedDict):
    """The images that belong to no class."""

    path: str
    sha256: str
    n: int
    n_available: int
    n_unreadable: int


class DataRecord(TypedDict):
    """The audited images, or the tabular data."""

    path: str
    sha256: str
    source: NotRequired[str]
    kind: NotRequired[Literal["images", "rows"]]
    n: int
    n_available: NotRequired[int]
    n_unreadable: int
    n_unanswered: NotRequired[int]
    """How many of them are images for which the model returned NaN or infinity."""
    unreadable: NotRequired[list[str]]
    skipped: NotRequired[list[SkippedRecord]]
    labelled: bool
    units: NotRequired[UnitsRecord | None]
    near_duplicates: NotRequired[int]
    benchmark: NotRequired[BenchmarkRecord | None]
    groups: dict[str, dict[str, int]]
    unknown: NotRequired[UnknownRecord | None]


class SeverityScaleRecord(TypedDict):
    """Severity of a loss of accuracy for one kind of attacker knowledge."""

    at_most_lost: dict[str, float]
    rationale: str
    source: str


class RuleRecord(TypedDict):
    """A rule of the policy."""

    probe: str
    metric: str
    at: dict[str, Scalar]
    side: Literal["at_least", "at_most", "at_most_lost"]
    thresholds: dict[str, float]
    """Threshold by severity."""
    knowledge: str | None
    advisory: bool
    reason: str
    source: str


class PolicyRecord(TypedDict):
    """The policy that judged the audit."""

    name: str
    sha256: str
    judged: NotRequired[str]
    accepted: NotRequired[list[AcceptanceStateRecord]]
    severity: NotRequired[dict[str, SeverityScaleRecord]]
    """Severity of a loss of accuracy by attacker knowledge; records of older versions lack it."""
    rules: NotRequired[list[RuleRecord]]
    review: NotRequired[ReviewRecord | None]
    """What the policy states about the review; it takes precedence over the sidecar."""


class PlannedRecord(TypedDict):
    """A suite or a policy by name and digest."""

    name: str
    sha256: str


class PlanRecord(TypedDict):
    """What was decided before the first measurement."""

    written: str
    seed: int
    probes: list[str]
    suite: PlannedRecord
    policy: PlannedRecord


class DigestsRecord(TypedDict):
    """SHA-256 of the suite that ran, and of the other parts of the run folder."""

    suite: str
    """Of the content of the suite."""
    manifest: str
    """Of the file manifest.json, which lists the digest of every record and picture."""
    records: str
    """Of the canonical JSON of the records' paths and digests."""
    evidence: str
    """Of the canonical JSON of the pictures' paths and digests."""


class PluginRecord(TypedDict):
    """A plugin from another package, or a broken one with the reason."""

    name: str
    version: str | None
    error: str | None


def plugin_title(plugin: PluginRecord) -> str:
    """Return name and version of a plugin."""
    return f"{plugin['name']} {plugin['version']}" if plugin["version"] else plugin["name"]


class DocumentedRowRecord(TypedDict):
    """One published number and the measured one at the same place."""

    at: dict[str, Json]
    documented: float | None
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    reading: Literal["within the interval", "measured lower", "measured higher", "not measured", "no number documented"]


class DocumentedRecord(TypedDict):
    """Published numbers of this or another model, next to the measured ones."""

    claim: str
    source: str
    probe: str
    metric: str
    over: str
    series: str
    figure: str
    note: str
    unit: Unit
    this_model: bool
    rows: list[DocumentedRowRecord]


class SupervisionRecord(TypedDict):
    """Whether the audit ran in a supervised process, its limits, and what ended it."""

    supervised: bool
    probe_timeout: float | None
    """Seconds for one step of a probe; None without a limit."""
    probe_memory: int | None
    """Bytes; None without a limit."""
    restarts: int
    losses: list[str]


class AuditRecord(TypedDict):
    """The whole audit.json."""

    schema: Literal["auditor/1"]
    auditor: str
    created: str
    seed: int
    suite: str
    command: str
    environment: dict[str, str | float | bool | None]
    supervision: NotRequired[SupervisionRecord]
    model: ModelRecord
    data: DataRecord
    policy: PolicyRecord
    plan: NotRequired[PlanRecord]
    """Records of older versions lack plan and digests."""
    digests: NotRequired[DigestsRecord]
    plugins: list[PluginRecord]
    warnings: list[str]
    verdict: Verdict
    verdict_reason: NotRequired[str]
    documented: NotRequired[list[DocumentedRecord]]
    probes: list[ProbeRecord]


def unknown_spec(name: str) -> MetricSpecRecord:
    """Return the meaning of a metric without a declaration: no better direction, no bound."""
    return {
        "name": name,
        "label": name.replace("_", " ").capitalize(),
        "better": "neither",
        "unit": "1",
        "bound": "measured",
        "difference": False,
    }


def metric_spec(specs: Sequence[MetricSpecRecord], name: str) -> MetricSpecRecord:
    """Return the declaration of the metric called ``name``, or ``unknown_spec`` without one."""
    return next((spec for spec in specs if spec["name"] == name), unknown_spec(name))


def spec_of(probe: ProbeRecord, metric: MetricRecord) -> MetricSpecRecord:
    """Return what a metric of this probe means."""
    return metric_spec(probe.get("metric_specs", []), metric["name"])
