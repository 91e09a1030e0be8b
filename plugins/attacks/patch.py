"""Adversarial patch: one square, laid anywhere on any image, trained on one half of the images, judged on the other.

Brown et al. 2017, arXiv:1712.09665: the patch maximises the expected loss over images and places. Here the goal is
any wrong class and the expectation is over places alone, not over size and rotation. The control is a square of random
pixels at the same places: what that does is the covering, not the patch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auditor import (
    Conclusion,
    Example,
    Finding,
    GridRow,
    ImageGrid,
    Meta,
    Metric,
    Picture,
    Probe,
    Records,
    Table,
    ThreatModel,
    hookimpl,
)
from auditor.findings.metric import Scalar, percent
from auditor.probes.perturbation import spread_over_classes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from auditor.data.dataset import Batch, Pixels
    from auditor.model.classifier import Classifier
    from auditor.probes.base import Columns, Randomness, Run

_FIRST_STEP, _LAST_STEP = 0.1, 0.01
"""How far a pixel of the patch moves in a step of training, at first and at last."""


@dataclass(frozen=True, kw_only=True)
class Patch(Probe):
    """How often does a printed square change the answer wherever it lies?"""

    meta = Meta(
        id="attacks.patch",
        title="Adversarial patch",
        area="attacks",
        why="A sticker can be printed and laid into any scene; it takes no access to the image.",
        references=("https://arxiv.org/abs/1712.09665",),
        needs=frozenset({"gradients"}),
    )
    blocks: Sequence[float] = (0.15, 0.3)
    """Sides of the patch as shares of the image's side."""
    training: int = 128
    """Images that it is trained on, at most."""
    iterations: int = 30
    """Steps of training, each at another place of every image."""
    places: int = 3
    """Random places at which each image is judged."""

    def __post_init__(self) -> None:
        """Refuse what is no patch."""
        if not self.blocks or not all(0 < block < 1 for block in self.blocks):
            raise ValueError("blocks must name sides between 0 and 1")
        if min(self.training, self.iterations, self.places) < 1:
            raise ValueError("training, iterations and places must be at least 1")

    def threat_model(self) -> ThreatModel:
        """A square, made beforehand."""
        return ThreatModel(
            goal="untargeted misclassification of many images by one patch",
            knowledge="white-box",
            norm="none (square)",
            budget=f"one square of up to {100 * max(self.blocks):g} % of the side, at a random place",
        )

    def prepare(self, run: Run) -> Probe:
        """Train the patches."""
        from auditor.probes.splits import training_images

        batch = training_images(run, self.training)
        patches = {block: self._trained_on(run.classifier, batch, run.rng, block) for block in self.blocks}
        return _Trained(**vars(self), patches=patches)

    def _trained_on(self, classifier: Classifier, batch: Batch, rng: Randomness, block: float) -> Pixels:
        """The patch (c, s, s) with the largest expected margin."""
        import numpy as np
        import torch

        from auditor.algorithms.losses import margin

        side = _side(batch.pixels.shape, block)
        patch = np.full((batch.pixels.shape[1], side, side), 0.5, dtype=np.float32)
        for iteration in range(self.iterations):
            corners = [_corner(rng, i, f"training {iteration}", batch.pixels.shape, side) for i in batch.ids]
            laid = lay(batch.pixels, patch, corners)
            slope = np.zeros_like(patch)
            for start in range(0, len(batch), classifier.batch_size):
                rows = slice(start, start + classifier.batch_size)
                x = classifier.tensor(laid[rows]).requires_grad_()
                margins = margin(classifier.logits(x), torch.from_numpy(batch.labels[rows]).to(x.device))
                (part,) = torch.autograd.grad(margins.sum(), x)
                for gradient, (top, left) in zip(part.cpu().numpy(), corners[rows], strict=True):
                    slope += gradient[:, top : top + side, left : left + side]
            share = iteration / max(1, self.iterations - 1)
            step = _FIRST_STEP + (_LAST_STEP - _FIRST_STEP) * share
            patch = (patch + np.float32(step) * np.sign(slope)).clip(0, 1)
        return patch

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """Nothing without a patch; ``prepare`` trains it."""
        raise NotImplementedError("only the probe that prepare returns measures")

    def examples(self, records: Records) -> Sequence[Example]:
        """Unseen images that the largest patch broke."""
        frame = records.frame
        broken = frame[
            frame["held_out"] & (frame["block"] == max(self.blocks)) & (frame["fooled"] > 0)
            & (frame["prediction"] == frame["label"])
        ]  # fmt: skip
        return [
            Example(image_id=row.image_id, at={"block": float(row.block), "place": int(row.place)})
            for row in spread_over_classes(broken).itertuples()
        ]

    def conclude(self, records: Records) -> Conclusion:
        """By size: how often the patch changes the answer, how often random pixels do."""
        from auditor import statistics

        if not len(records.frame) or not records.frame["held_out"].any():
            return Conclusion(inconclusive="no image was held out to judge the patch on")
        unseen = records.frame[records.frame["held_out"].astype(bool)]
        metrics: list[Metric] = []
        rows: list[list[Any]] = []
        for block in sorted(self.blocks, reverse=True):
            at: Mapping[str, Scalar] = {"block": block}
            here = unseen[unseen["block"] == block]
            right = (here["prediction"] == here["label"]).to_numpy()
            robust = statistics.proportion("robust_accuracy", right & (here["fooled"] == 0).to_numpy(), at=at)
            success = statistics.mean("attack_success_rate", here["fooled"][right], unit="fraction", at=at)
            control = statistics.mean("control_success_rate", here["control"][right], unit="fraction", at=at)
            metrics += [robust, success, control]
            rows.append([block, robust.cell(), success.cell(), control.cell(), robust.n])
        robust, success, control = metrics[:3]
        clean = statistics.proportion("accuracy", unseen.drop_duplicates("image_id").eval("prediction == label"))
        finding = Finding(
            id=f"{self.meta.id}/square",
            title="What a patch does",
            statement=f"A patch of {100 * max(self.blocks):g} % of the side, at the worst of {self.places} random"
            f" places, brings {records.accuracy_name} on images that it was not trained on from {percent(clean)} to"
            f" {percent(robust)} (n = {robust.n}); at one random place it changes {percent(success)} of the right"
            f" answers, a square of random pixels {percent(control)}.",
            metric=robust,
            evidence=[
                Table(
                    title="By size of the patch",
                    columns=["side", "accuracy, worst place", "success at a random place", "random pixels there", "n"],
                    formats=["percent", "percent", "percent", "percent", "count"],
                    rows=rows,
                    caption="On the half of the images that the patch was not trained on.",
                ),
                *_pictures(records),
            ],
        )
        return Conclusion(metrics=metrics, findings=[finding])


@dataclass(frozen=True, kw_only=True)
class _Trained(Patch):
    """The probe that measures and draws."""

    patches: Mapping[float, Pixels]

    def measure(self, classifier: Classifier, batch: Batch, rng: Randomness) -> Columns:
        """One row per image and size: at which share of the places the answer is wrong."""
        import numpy as np

        from auditor.probes.splits import in_training_half

        held_out = np.array([not in_training_half(rng, image_id) for image_id in batch.ids], dtype=bool)
        parts: list[dict[str, NDArray[Any]]] = []
        for block in self.blocks:

            def wrong(name: str, block: float = block) -> NDArray[np.bool_]:
                answers = [classifier.predict(self._laid(batch, rng, block, k)[name]) for k in range(self.places)]
                return np.stack([answer.argmax(axis=1) != batch.labels for answer in answers], axis=1)

            misclassified = wrong("patch")
            parts.append(
                {
                    "row": np.arange(len(batch)),
                    "block": np.full(len(batch), block),
                    "fooled": misclassified.mean(axis=1),
                    "place": misclassified.argmax(axis=1),
                    "control": wrong("random pixels").mean(axis=1),
                    "held_out": held_out,
                }
            )
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def draw_example(
        self, classifier: Classifier, batch: Batch, rng: Randomness, example: Example
    ) -> Mapping[str, Pixels]:
        """The images, with random pixels, with the patch."""
        del classifier
        block, place = example.at["block"], example.at["place"]
        assert isinstance(block, float)
        assert isinstance(place, int)
        laid = self._laid(batch, rng, block, place)
        return {"clean": batch.pixels, "random pixels": laid["random pixels"], "patch": laid["patch"]}

    def _laid(self, batch: Batch, rng: Randomness, block: float, place: int) -> dict[str, Pixels]:
        """The patch and random pixels at the same place."""
        import numpy as np

        patch = self.patches[block]
        corners = [_corner(rng, i, f"place {place}", batch.pixels.shape, patch.shape[-1]) for i in batch.ids]
        noise = [rng(i, f"pixels {place}").random(patch.shape, dtype=np.float32) for i in batch.ids]
        return {
            "patch": lay(batch.pixels, patch, corners),
            "random pixels": lay(batch.pixels, np.stack(noise), corners),
        }


def lay(images: Pixels, patch: Pixels, corners: Sequence[tuple[int, int]]) -> Pixels:
    """Images (n, c, h, w) with one patch (c, s, s), or each with its own (n, c, s, s), at (top, left)."""
    laid: Pixels = images.copy()
    side = patch.shape[-1]
    for i, (top, left) in enumerate(corners):
        laid[i, :, top : top + side, left : left + side] = patch if patch.ndim == 3 else patch[i]
    return laid


def _side(shape: Sequence[int], block: float) -> int:
    return max(1, round(block * min(shape[-2:])))


def _corner(rng: Randomness, image_id: str, purpose: str, shape: Sequence[int], side: int) -> tuple[int, int]:
    """A random place that the patch fits in: top and left."""
    top, left = rng(image_id, purpose).integers(0, [shape[-2] - side + 1, shape[-1] - side + 1])
    return int(top), int(left)


def _pictures(records: Records) -> list[ImageGrid]:
    rows = []
    for _, pictures in records.examples.groupby("example"):
        by_name = {row.picture: row for row in pictures.itertuples()}
        label = records.class_name(by_name["clean"].label)
        # what 8-bit rounding of the stored file repaired is no evidence
        if by_name["patch"].success:
            cells = [
                Picture(file=shown.file, caption=records.said(shown), alt=f"{name}: image of class {label}")
                for name, shown in by_name.items()
            ]
            rows.append(GridRow(label=label, cells=cells))
    caption = "Label in front; under each picture what the deployed model says to the stored 8-bit file."
    columns = ["clean", "random pixels", "patch"]
    return [ImageGrid(title="What changed the answer", columns=columns, rows=rows, caption=caption)] if rows else []


@hookimpl
def auditor_probes() -> list[type[Probe]]:
    """Register the probe."""
    return [Patch]
