"""Adversarial patch: one square for all images and positions, trained on one half of the images, tested on the other.

Brown et al. 2017, arXiv:1712.09665: the patch maximises the expected loss over images and positions. The goal of
this probe is any wrong class, and the expectation excludes size and rotation. The control is a square of random pixels
at the same positions: it measures the effect of occlusion alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from auditor import Conclusion, Example, Finding, Meta, MetricSpec, Probe, Records, ThreatModel
from auditor.findings.formatting import percent
from auditor.plugins.attacks._patch_metrics import block_metrics, size_table
from auditor.plugins.attacks._patch_training import paste, random_corner, train_patch
from auditor.probes.example_grid import example_grid, spread_over_classes
from auditor.probes.grid_search import GridSearch
from auditor.probes.splits import held_out_images, training_images

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from auditor import Batch, Classifier, Columns, Pixels, Randomness
    from auditor.probes.base import RunContext


@dataclass(frozen=True, kw_only=True)
class Patch(GridSearch):
    """Train a square and paste it at random positions."""

    meta = Meta(
        id="attacks.patch",
        title="Adversarial patch",
        area="attacks",
        why="A sticker can be printed and placed in any scene; it requires no access to the digital image.",
        references=("https://arxiv.org/abs/1712.09665",),
        needs=frozenset({"gradients"}),
        version=2,
    )
    metrics: ClassVar[Sequence[MetricSpec]] = (
        *GridSearch.metrics,
        MetricSpec(name="control_success_rate", label="Success rate of random pixels", better="neither"),
    )
    blocks: Sequence[float] = (0.15, 0.3)
    """Sides of the patch as shares of the image side."""
    training: int = 128
    """Largest number of training images."""
    iterations: int = 30
    """Training steps, each at another position in every image."""
    places: int = 3
    """Random positions at which each image is tested."""

    def __post_init__(self) -> None:
        """Refuse invalid settings."""
        if not self.blocks or not all(0 < block < 1 for block in self.blocks):
            raise ValueError("blocks must name sides between 0 and 1")
        if min(self.training, self.iterations, self.places) < 1:
            raise ValueError("training, iterations and places must be at least 1")

    def threat_model(self) -> ThreatModel:
        """Return the precomputed square."""
        return ThreatModel(
            goal="untargeted misclassification of many images by one patch",
            knowledge="white-box",
            norm="none (square)",
            budget=f"one square of up to {100 * max(self.blocks):g} % of the side, at a random position",
        )

    def prepare(self, run: RunContext) -> Probe:
        """Train the patches."""
        batch = training_images(run, self.training)
        patches = {block: train_patch(run.classifier, batch, run.rng, block, self.iterations) for block in self.blocks}
        return _Trained(**vars(self), patches=patches, held_out=held_out_images(run))

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Refuse to measure without patches; ``prepare`` trains them."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def examples(self, records: Records) -> Sequence[Example]:
        """Request held-out images that the largest patch misclassifies."""
        frame = records.frame
        largest = frame[frame["held_out"] & (frame["block"] == max(self.blocks))]
        successes = largest[(largest["success_share"] > 0) & (largest["prediction"] == largest["label"])]
        return [
            Example(image_id=row.image_id, at={"block": float(row.block), "position": int(row.position)})
            for row in spread_over_classes(successes).itertuples()
        ]

    def conclude(self, records: Records) -> Conclusion:
        """Return by size the success rate of the patch and of random pixels."""
        from auditor import statistics

        if not len(records.frame) or not records.frame["held_out"].any():
            return Conclusion(inconclusive="no image was held out to test the patch on")
        held_out = records.frame[records.frame["held_out"].astype(bool)]
        by_block = {
            block: block_metrics(held_out[held_out["block"] == block], block)
            for block in sorted(self.blocks, reverse=True)
        }
        robust, success, control = by_block[max(self.blocks)]
        once = held_out.drop_duplicates("image_id")
        clean = statistics.proportion("accuracy", once["prediction"] == once["label"], units=once.get("unit"))
        finding = Finding(
            id=f"{self.meta.id}/square",
            title="Accuracy with an adversarial patch",
            statement=f"With a square patch, {100 * max(self.blocks):g} % of the image side long, at the worst of"
            f" {self.places} random positions, {records.accuracy_name} on held-out images is"
            f" {percent(robust)}; without a patch it is {percent(clean)} (n = {robust.n}). At one random position, the"
            f" patch changes {percent(success)} of the correct predictions; a patch of random pixels changes"
            f" {percent(control)}.",
            metric=robust,
            evidence=[
                size_table(by_block),
                *example_grid(
                    records,
                    "Images misclassified with the patch",
                    ["clean", "random pixels", "patch"],
                    must_succeed="patch",
                ),
            ],
        )
        return Conclusion(metrics=[m for metrics in by_block.values() for m in metrics], findings=[finding])


@dataclass(frozen=True, kw_only=True)
class _Trained(Patch):
    """The probe with trained patches."""

    patches: Mapping[float, Pixels]
    held_out: frozenset[str]
    """Images that the patches were not trained on."""

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Return one row per image and size: the share of positions that are misclassified."""
        import numpy as np

        held_out = np.array([image_id in self.held_out for image_id in batch.ids], dtype=bool)
        parts: list[dict[str, NDArray[Any]]] = []
        for block in self.blocks:
            pasted = [self._pasted(batch, rng, block, position) for position in range(self.places)]
            wrong = {
                name: self.query_grid(classifier, batch.labels, (images[name] for images in pasted)).misclassified
                for name in ("patch", "random pixels")
            }
            parts.append(
                {
                    "row": np.arange(len(batch)),
                    "block": np.full(len(batch), block),
                    "success_share": wrong["patch"].mean(axis=1),
                    "position": wrong["patch"].argmax(axis=1),
                    "control": wrong["random pixels"].mean(axis=1),
                    "held_out": held_out,
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """Draw the clean images, with random pixels and with the patch."""
        del classifier
        at: Mapping[str, Any] = example.at
        return {"clean": batch.pixels, **self._pasted(batch, rng, at["block"], at["position"])}

    def _pasted(self, batch: Batch, rng: Randomness, block: float, position: int) -> dict[str, Pixels]:
        """Paste random pixels and the patch at the same random position of each image."""
        import numpy as np

        patch = self.patches[block]
        shape = batch.pixels.shape
        corners = [random_corner(rng, i, f"place {position}", shape, patch.shape[-1]) for i in batch.ids]
        noise = [rng(i, f"pixels {position}").random(patch.shape, dtype=np.float32) for i in batch.ids]
        return {
            "random pixels": paste(batch.pixels, np.stack(noise), corners),
            "patch": paste(batch.pixels, patch, corners),
        }
