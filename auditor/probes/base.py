"""A probe: data and pure functions.

``meta`` says what it is, the fields of the frozen dataclass are its settings, ``measure`` turns images into records,
``conclude`` turns records into metrics and findings. What a probe never does: read or write files, print, look at the
clock, or draw random numbers from anywhere but the ``rng`` it is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from auditor.findings.finding import Area, Conclusion, ThreatModel
from auditor.findings.metric import MetricSpec, Scalar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier

Need = Literal["labels", "gradients", "groups"]

Columns = Mapping[str, "NDArray[Any]"]
"""Equal-long columns. One row per image of the batch; or any number of rows with a column ``row``, the index of the
image in the batch. The engine adds ``image_id``, ``label``, ``prediction`` and ``group:<name>``."""


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What a probe is."""

    id: str
    """``area.noun``, the file's name."""
    title: str
    area: Area
    why: str
    """One or two sentences for the reviewer: what a bad result means."""
    references: Sequence[str] = ()
    needs: frozenset[Need] = frozenset()
    """Without these the probe is not-applicable, and the report says which is missing."""
    input_kinds: frozenset[Literal["images", "rows"]] = frozenset({"images"})
    """What it can be asked about: images, and rows of features (``rows.py``) where its author says so."""
    version: int = 1
    """Raise it when ``measure`` changes, so that old records are not reused."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A wish for pictures in the report: of this image, perturbed at this level."""

    image_id: str
    at: Mapping[str, Scalar] = field(default_factory=dict)


class Randomness:
    """Random numbers that depend on the run's seed, the probe and the image alone.

    So batch size, order, sharding, interruption and number of workers change nothing.
    """

    def __init__(self, seed: int, probe_id: str) -> None:
        """``seed`` is the run's."""
        self._prefix = f"{seed}\0{probe_id}"

    def __call__(self, image_id: str, purpose: str = "") -> np.random.Generator:
        """A generator for one image; ``purpose`` separates several draws for the same image."""
        from hashlib import blake2b

        import numpy as np

        digest = blake2b(f"{self._prefix}\0{image_id}\0{purpose}".encode(), digest_size=16).digest()
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass(frozen=True, kw_only=True)
class Records:
    """What ``conclude`` works on: every row that ``measure`` gave, from all images."""

    frame: pd.DataFrame
    """One row per image (and level); sorted by image id. ``sampled`` is False for images that are there only because
    the probe prefers them: what went wrong must colour no mean."""
    examples: pd.DataFrame
    """One row per picture: ``example`` (its number), ``image_id``, ``at`` (JSON), ``picture`` (its name), ``file``,
    ``label``, ``prediction``, ``confidence`` (of the prediction) and ``success``: the original, asked again, gives
    another class than ``label`` to the stored 8-bit file."""
    classes: Sequence[str]
    labelled: bool
    """False: labels are the model's own answers, so accuracy is agreement with them."""
    kind: Literal["images", "rows"] = "images"
    """What was audited; texts for the reader call it so."""
    features: Sequence[str] = ()
    """Of rows: the names of what the model sees."""
    others: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """Records of the probes that ``uses`` names."""
    threats: Mapping[str, ThreatModel] = field(default_factory=dict)
    """Threat models of those among them that have one."""

    @property
    def accuracy_name(self) -> str:
        """What the share of right answers is called: without labels it is no accuracy."""
        return "accuracy" if self.labelled else "agreement with the model's own clean answer"

    def class_name(self, index: float) -> str:
        """The name of class number ``index``."""
        return self.classes[int(index)]

    def said(self, picture: Any) -> str:
        """What the deployed model says to a row of ``examples``: class and confidence."""
        return f"{self.class_name(picture.prediction)} ({picture.confidence:.2f})"


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a probe may look at once, before it measures."""

    classifier: Classifier
    probes: Sequence[Probe]
    """All of this run, the probe itself among them."""
    ids: Sequence[str]
    """Of the images that the probe will measure."""
    batch: Callable[[Sequence[str]], Batch]
    """Some of them in memory."""
    rng: Randomness


@dataclass(frozen=True, kw_only=True)
class PerImage:
    """What each image contributes to a metric, so that two runs can be compared image by image.

    The metric of this name at this place is the mean of the values: 0 and 1 for a proportion, NaN for an image that
    does not count.
    """

    name: str
    values: pd.Series
    """Numbers or booleans by image id."""
    at: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Probe(ABC):
    """Base of all probes; subclasses are frozen dataclasses whose fields are the settings, JSON values all."""

    meta: ClassVar[Meta]
    metrics: ClassVar[Sequence[MetricSpec]] = ()
    """A spec for every metric that ``conclude`` may return; a metric without one is an error of the probe."""
    depends_on: ClassVar[Sequence[str]] = ()
    """Ids or globs of other probes whose records ``conclude`` reads."""
    adds_images: ClassVar[bool] = False
    """True if ``extra_images`` may return images; they are measured when the probes of ``depends_on`` are done."""
    accepts_surrogates: ClassVar[bool] = False
    """True if the probe has a setting ``surrogates``: paths of other models (``--surrogate``)."""

    samples: int = 0
    """Audit at most this many images, drawn by the run's seed; 0 for all."""

    def threat_model(self) -> ThreatModel | None:
        """Who attacks, knowing what, allowed what; every probe of the area "attacks" must say."""
        return None

    def prepare(self, run: Run) -> Probe:
        """The probe that measures and draws, asked for once a run; by default this one itself.

        For what rows need besides their image: a perturbation trained on all images, the other probes of the run. It
        is kept in fields of a private subclass, which are no settings. Depends on nothing but settings, model, images
        and seed, and on what ``depends_on`` says.
        """
        del run
        return self

    def fingerprint(self, probes: Sequence[Probe]) -> Any:
        """What rows depend on besides settings, model, images and seed, as a JSON value: for example the digest of a
        second model, or the settings of other probes of the run. Rows measured under another value are not reused."""
        del probes
        return None

    @abstractmethod
    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Measure a batch. Pure: the same images give the same columns, in whatever batches they come.

        Raises NotApplicable with the reason where this model has not got what the probe is about.
        """

    def extra_images(self, others: Mapping[str, pd.DataFrame]) -> Sequence[str]:
        """Images to be measured besides the random sample, from the records of the probes that ``uses`` names."""
        del others
        return ()

    def examples(self, records: Records) -> Sequence[Example]:
        """Which pictures the report should show; by default none."""
        del records
        return ()

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """Pictures by name, each (n, c, h, w) in [0, 1]; ``batch`` holds all images wished for at ``example.at``."""
        del classifier, rng, example
        return {"clean": batch.pixels}

    @abstractmethod
    def conclude(self, records: Records) -> Conclusion:
        """Conclude from all records. Pure and cheap: it runs again whenever a report is drawn."""

    def per_image(self, records: Records) -> Sequence[PerImage]:
        """What each image contributes to the metrics that are means over images; by default nothing is told.

        ``auditor compare`` tests such metrics image by image, which finds smaller differences than two intervals do.
        """
        del records
        return ()


def no_examples() -> pd.DataFrame:
    """The examples of a probe that shows none."""
    import pandas as pd

    names = ["example", "image_id", "at", "picture", "file", "label", "prediction", "confidence", "confidence_label",
             "success"]  # fmt: skip
    return pd.DataFrame({name: [] for name in names})
