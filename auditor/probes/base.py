"""A probe: its description, its settings and pure functions.

``meta`` describes the probe, the fields of the frozen dataclass are its settings, ``measure`` turns images into
records, ``conclude`` turns records into metrics and findings. A probe never reads or writes files, prints, or draws
random numbers from anything but the ``rng`` it is given. It reads the clock only to keep a time limit that is one of
its settings, and its finding states where that limit was reached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from auditor.findings.finding import Area, Conclusion, ThreatModel
from auditor.findings.metric import MetricSpec, Scalar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Augmenter, Batch, Images, Pixels
    from auditor.model.classifier import Classifier

Need = Literal["labels", "gradients", "groups", "scores", "epsilons", "unknown", "augmentations"]
InputKind = Literal["images", "rows"]

Columns = Mapping[str, "NDArray[Any]"]
"""Columns of equal length. One row per image of the batch; or any number of rows with a column ``row``, the index of
the image in the batch. The run adds ``image_id``, ``label``, ``prediction`` and ``group:<name>``, and ``unit`` (its
patient, person or video) if the data states units."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """The description of a probe."""

    id: str
    """``area.noun``, the name of the file."""
    title: str
    """A noun phrase, for example "Rotation and translation"."""
    area: Area
    why: str
    """One or two sentences for the reviewer: what a bad result means."""
    references: Sequence[str] = ()
    """https:// addresses of the sources."""
    needs: frozenset[Need] = frozenset()
    """What the probe requires; without it, it is not applicable, and the report names what is missing."""
    input_kinds: frozenset[InputKind] = frozenset({"images"})
    """Which inputs it can audit: images, tabular data ("rows"), or both."""
    version: int = 1
    """Raise it when ``measure`` changes, so that old records are not reused."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A request for pictures in the report: this image, perturbed at this level."""

    image_id: str
    at: Mapping[str, Scalar] = field(default_factory=dict)


class Magnified(NamedTuple):
    """Pictures of differences: zero is grey, and the difference is multiplied so that it can be seen."""

    pixels: Pixels
    """(n, c, h, w) in [0, 1]."""
    factors: NDArray[np.float64]
    """(n,): by what each difference was multiplied; the report states it."""


class Randomness:
    """Random numbers that depend only on the seed of the run, the probe and the image.

    So batch size, order, sharding, interruption and the number of workers do not change them.
    """

    def __init__(self, seed: int, probe_id: str) -> None:
        """``seed`` is the seed of the run."""
        self._seed = seed
        self._prefix = f"{seed}\0{probe_id}"

    def of(self, probe_id: str) -> Randomness:
        """Return the random numbers of another probe of the run."""
        return Randomness(self._seed, probe_id)

    def __call__(self, image_id: str, purpose: str = "") -> np.random.Generator:
        """Return a generator for one image; ``purpose`` separates several draws for the same image."""
        from hashlib import blake2b

        import numpy as np

        digest = blake2b(f"{self._prefix}\0{image_id}\0{purpose}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass(frozen=True, kw_only=True)
class Records:
    """The input of ``conclude``: all rows that ``measure`` returned, of all images."""

    frame: pd.DataFrame
    """One row per image (and level), sorted by image id. Images of one ``unit`` are correlated: give
    ``frame.get("unit")``, None without units, to every function of ``auditor.statistics``. ``sampled`` is False for
    images that are not part of the random sample (``Probe.extra_images``): exclude them from means, because they were
    chosen for being hard."""
    examples: pd.DataFrame
    """One row per picture: ``example`` (its number), ``image_id``, ``at`` (JSON), ``picture`` (its name), ``file``,
    ``label``, ``prediction``, ``confidence`` (of the prediction) and ``success``: the deployed model predicts another
    class than ``label`` for the stored 8-bit file."""
    classes: Sequence[str]
    labelled: bool
    """False if the labels are the model's own predictions; accuracy is then agreement with them."""
    kind: InputKind = "images"
    """What was audited."""
    scores: bool = True
    """False if the model answers with labels only: the probabilities are then 0 and 1."""
    features: Sequence[str] = ()
    """Names of the features of tabular data."""
    others: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Records of the probes in ``Probe.depends_on``, by id."""
    threats: Mapping[str, ThreatModel] = field(default_factory=dict)
    """Threat models of those probes that have one, by id."""

    @property
    def accuracy_name(self) -> str:
        """What the fraction of correct predictions is called; without labels it is no accuracy."""
        return "accuracy" if self.labelled else "agreement with the model's own clean prediction"

    def class_name(self, index: float) -> str:
        """Return the name of class ``index``."""
        return self.classes[int(index)]

    def prediction_text(self, picture: Any) -> str:
        """Return the deployed model's class and confidence for a row of ``examples``."""
        return f"{self.class_name(picture.prediction)} ({picture.confidence:.2f})"


@dataclass(frozen=True, kw_only=True)
class RunContext:
    """What a probe may read before it measures."""

    classifier: Classifier
    probes: Sequence[Probe]
    """All probes of the run, including this one."""
    ids: Sequence[str]
    """The images that the probe will measure."""
    batch: Callable[[Sequence[str]], Batch]
    """Load some of these images."""
    rng: Randomness
    records: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """What the probes of ``depends_on`` have recorded, by id; empty unless the probe ``waits``."""
    unknown: Images | None = None
    """Images that belong to no class (``--unknown``); given to probes that need "unknown"."""
    augmentations: Augmenter | None = None
    """Augmentations of MAITE; given to probes that need "augmentations"."""
    units: Mapping[str, str] | None = None
    """The unit of each image (patient, person, video) by id; None if the data states none. Images of one unit belong
    into the same half of a split."""


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """The contribution of each image to a metric, so that two runs can be compared image by image.

    The metric of this name at this place is the mean of the values: 0 and 1 for a proportion, NaN for an image that
    does not count.
    """

    name: str
    values: pd.Series
    """Numbers or booleans by image id."""
    at: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """Base class of all probes. Subclasses are frozen dataclasses; their fields are the settings, all JSON values."""

    meta: ClassVar[Meta]
    metrics: ClassVar[Sequence[MetricSpec]] = ()
    """A spec for every metric that ``conclude`` may return; a metric without one is an error of the probe."""
    depends_on: ClassVar[Sequence[str]] = ()
    """Ids or globs of other probes whose records ``conclude`` reads."""
    adds_images: ClassVar[bool] = False
    """True if ``extra_images`` may return images; they are measured when the probes of ``depends_on`` are done."""
    waits: ClassVar[bool] = False
    """True if ``prepare`` reads ``RunContext.records``: the probe is measured when those of ``depends_on`` are done."""
    repeats_queries: ClassVar[bool] = False
    """True if answers to earlier queries must not be reused. On an endpoint such probes come last, to detect drift."""
    accepts_surrogates: ClassVar[bool] = False
    """True if the probe has a setting ``surrogates``: paths of other models (``--surrogate``)."""

    samples: int = 0
    """Audit at most this many images, drawn at random with the run's seed; 0 for all."""

    def threat_model(self) -> ThreatModel | None:
        """Return the attacker's goal, knowledge and budget; every probe of the area "attacks" must."""
        return None

    def prepare(self, run: RunContext) -> Probe:
        """Return the probe that measures; called once per run, by default the probe itself.

        For what rows need in addition to their image: a perturbation trained on all images, the other probes of the
        run. Keep it in fields of a private subclass, which are not settings. It may depend only on settings, model,
        images and seed, and on what ``fingerprint`` returns.
        """
        del run
        return self

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """Return what rows depend on in addition to settings, model, images and seed, as a JSON value.

        For example the digest of a second model, or the settings of other probes of the run. Rows measured under
        another value are not reused.
        """
        del probes
        return None

    @abstractmethod
    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Measure a batch. Pure: an image gives the same rows in any batch.

        Raises:
            NotApplicable: with the reason, if the model lacks what the probe measures.
        """

    def extra_images(self, others: Mapping[str, pd.DataFrame]) -> Sequence[str]:
        """Return images to measure in addition to the random sample, chosen from the records of ``depends_on``."""
        del others
        return ()

    def examples(self, records: Records) -> Sequence[Example]:
        """Return the pictures to show in the report; by default none."""
        del records
        return ()

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels | Magnified]:
        """Return pictures by name, each (n, c, h, w) in [0, 1]; ``batch`` holds all images requested at one level."""
        del classifier, rng, example
        return {"clean": batch.pixels}

    @abstractmethod
    def conclude(self, records: Records) -> Conclusion:
        """Conclude from all records. Pure and cheap: it is repeated whenever a report is rendered."""

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """Return each image's contribution to the metrics that are means over images; by default none.

        ``auditor compare`` tests such metrics image by image, which detects smaller differences than comparing two
        intervals.
        """
        del records
        return ()


def no_examples() -> pd.DataFrame:
    """Return the examples of a probe that shows none."""
    import pandas as pd

    names = ["example", "image_id", "at", "picture", "file", "label", "prediction", "confidence", "confidence_label",
             "success", "factor"]  # fmt: skip
    return pd.DataFrame({name: [] for name in names})
