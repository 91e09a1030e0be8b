"""Example images of the report: stored as 8-bit PNG, read back, and classified again by the deployed model."""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from numpy.typing import NDArray

from auditor.data.dataset import Pixels
from auditor.errors import NotFinite, OutOfTime
from auditor.files import digest
from auditor.findings.encoding import plain
from auditor.model.deployed import DeployedModel
from auditor.probes.base import Example, Magnified, Probe, Randomness, Records
from auditor.run.folder import Cost, RunFolder
from auditor.run.measuring import Measurer

if TYPE_CHECKING:
    import pyarrow as pa


class ExampleRow(TypedDict):
    """One stored image and the prediction of the deployed model for it."""

    example: int
    image_id: str
    at: str
    picture: str
    file: str
    label: int
    prediction: int
    confidence: float
    confidence_label: float
    success: bool
    factor: float
    """By what the difference shown was multiplied; 1 for an image."""


def examples_key(key: str, requested: Sequence[Example]) -> str:
    """Return the digest of the example images of the records under ``key``."""
    return digest([key, [asdict(example) for example in requested]])


class Examples:
    """Draws and stores the example images of probes."""

    def __init__(self, measurer: Measurer, folder: RunFolder) -> None:
        """Store images in ``folder``."""
        self._measurer = measurer
        self._folder = folder

    def add(self, probe: Probe, prepared: Callable[[], Probe], key: str, records: Records) -> tuple[Records, Cost]:
        """Return the records with the example images that the probe requests, and their cost.

        ``prepared`` is a function that returns the prepared probe; it is called only if images must be drawn. Images of
        an earlier run are reused if they belong to the same records (``key``). After the model's deadline
        there are none.
        """
        if self._measurer.classifier.input_kind != "images":
            # tabular data cannot be drawn
            return records, Cost()
        requested = list(probe.examples(records))
        if not requested:
            return records, Cost()
        drawn_under = examples_key(key, requested)
        table, cost = self._stored(probe.meta.id, drawn_under)
        if table is None:
            try:
                table, cost = self._draw_all(prepared(), requested)
            except OutOfTime:
                return records, Cost()
            self._folder.replace_examples(probe.meta.id, drawn_under, table, cost)
        return replace(records, examples=table.to_pandas()), cost

    def _stored(self, probe_id: str, key: str) -> tuple[pa.Table | None, Cost]:
        """Return the stored examples, or None if a picture is missing or damaged."""
        tables, cost = self._folder.read_shards(probe_id, key, kind="examples")
        if tables and all(self._folder.is_whole(file) for file in tables[0]["file"].to_pylist()):
            return tables[0], cost
        return None, Cost()

    def _draw_all(self, probe: Probe, requested: Sequence[Example]) -> tuple[pa.Table, Cost]:
        import pyarrow as pa

        calls = self._measurer.classifier.calls
        start, forward, backward = time.monotonic(), calls.forward, calls.backward
        table = pa.Table.from_pylist(list(self._draw(probe, requested)))
        return table, Cost(time.monotonic() - start, calls.forward - forward, calls.backward - backward)

    def _draw(self, probe: Probe, requested: Sequence[Example]) -> Iterator[ExampleRow]:
        """Draw and store all images, and yield them with the predictions of the deployed model."""
        classifier = self._measurer.classifier
        drawn: list[tuple[ExampleRow, Pixels]] = []
        for numbers in _same_setting(requested):
            drawn += self._draw_setting(probe, requested, numbers)
        for row, probabilities in _scored(classifier, drawn):
            prediction = int(probabilities.argmax())
            yield {
                **row,
                "prediction": prediction,
                "confidence": float(probabilities[prediction]),
                "confidence_label": float(probabilities[row["label"]]),
                "success": prediction != row["label"],
            }

    def _draw_setting(
        self, probe: Probe, requested: Sequence[Example], numbers: Sequence[int]
    ) -> Iterator[tuple[ExampleRow, Pixels]]:
        """Draw the images of one setting; the predictions are still empty."""
        first = requested[numbers[0]]
        batch = self._measurer.batch([requested[number].image_id for number in numbers])
        rng = Randomness(self._measurer.seed, probe.meta.id)
        for name, drawn in probe.draw_example(self._measurer.classifier, batch, rng, first).items():
            pictures, factors = drawn if isinstance(drawn, Magnified) else (drawn, np.ones(len(numbers)))
            for number, label, pixels, factor in zip(numbers, batch.labels, pictures, factors, strict=True):
                file, stored = self._store(probe.meta.id, pixels)
                row: ExampleRow = {
                    "example": number,
                    "image_id": requested[number].image_id,
                    "at": json.dumps(plain(first.at)),
                    "picture": name,
                    "file": file,
                    "label": int(label),
                    "prediction": -1,
                    "confidence": 0.0,
                    "confidence_label": 0.0,
                    "success": False,
                    "factor": float(factor),
                }
                yield row, stored

    def _store(self, probe_id: str, pixels: Pixels) -> tuple[str, Pixels]:
        """Write an image (c, h, w) as 8-bit PNG; return its file name and the pixels as read back."""
        from PIL import Image

        array = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        picture = Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0))
        sink = io.BytesIO()
        picture.save(sink, "PNG")
        content = sink.getvalue()
        name = f"evidence/{probe_id.replace('.', '-')}-{hashlib.sha256(content).hexdigest()[:16]}.png"
        with Image.open(self._folder.write(name, content)) as written:
            stored = np.asarray(written, dtype=np.float32) / np.float32(255)
        return name, stored[None] if stored.ndim == 2 else stored.transpose(2, 0, 1)


def _scored(
    classifier: DeployedModel, drawn: Sequence[tuple[ExampleRow, Pixels]]
) -> Iterator[tuple[ExampleRow, NDArray[np.float32]]]:
    """Yield the rows with their probabilities, without the examples that have an image with NaN scores."""
    try:
        predictions: Iterable[NDArray[np.float32]] = classifier.predict(np.stack([stored for _, stored in drawn]))
    except NotFinite:
        if len({row["example"] for row, _ in drawn}) > 1:
            for example in dict.fromkeys(row["example"] for row, _ in drawn):
                yield from _scored(classifier, [pair for pair in drawn if pair[0]["example"] == example])
        return
    yield from zip((row for row, _ in drawn), predictions, strict=True)


def _same_setting(requested: Sequence[Example]) -> list[list[int]]:
    """Group the numbers of examples by their setting."""
    groups: dict[str, list[int]] = {}
    for number, example in enumerate(requested):
        groups.setdefault(json.dumps(plain(example.at)), []).append(number)
    return list(groups.values())
