"""The deployed model in its own runtime, and its differentiable copy if one can be made.

``predict`` runs the deployed model; ``logits`` runs the copy under autograd. Both take pixels in [0, 1]; the range,
mean, channel order and layout of the model are applied here.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.errors import NoCopy, NotFinite, OutOfTime, first_line, is_out_of_memory
from auditor.model.device import free_memory
from auditor.model.scores import Activation, OutputDecoder, Outputs

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Pixels
    from auditor.findings.review import Review
from auditor.model.artefact import Artefact, Precision
from auditor.model.preprocessing import InputTransform

_TOLERANCE: Mapping[Precision, float] = {"float32": 1e-3, "float16": 2e-2, "int8": 0.25}
"""Largest difference between the scores of copy and deployed model, relative to the largest score, for parity.

Quantised models differ between runtimes by up to a tenth of the range of scores; for them the labels decide."""

_RANGE = 10.0
"""Mean range of the scaled logits on the test images: about that of a network trained with cross-entropy."""

_TEST_IMAGES = 16

_AGREEMENT: Mapping[Precision, float] = {"float32": 0.99, "float16": 0.98, "int8": 0.95}
"""Smallest fraction of images with the same label from copy and deployed model, for parity."""


class Parity(NamedTuple):
    """Agreement of copy and deployed model on real images."""

    n: int
    max_abs_difference: float | None
    label_agreement: float | None


class Price(NamedTuple):
    """Seconds for one image."""

    forward: float
    """A prediction by the deployed model."""
    gradient: float
    """A gradient of the copy, forward and backward; 0 without a copy."""


def seconds() -> float:
    """Return the time in seconds, the clock of models that run in this process."""
    return time.monotonic()


@dataclass
class Calls:
    """Number of images passed through the network, deployed model and copy together, and when that must end."""

    forward: int = 0
    backward: int = 0
    deadline: float | None = None
    """Time by ``clock`` after which a pass raises OutOfTime; None for never."""
    clock: Callable[[], float] = seconds
    """What limits measuring: seconds, or the queries of an endpoint."""
    _allowance: tuple[Price, float] | None = None

    @contextmanager
    def until(self, deadline: float | None) -> Iterator[None]:
        """Raise OutOfTime at any pass after ``deadline`` while the context lasts."""
        before, self.deadline = self.deadline, deadline
        try:
            yield
        finally:
            self.deadline = before

    @contextmanager
    def at_most(self, price: Price, seconds: float) -> Iterator[None]:
        """Raise OutOfTime while the context lasts when the passes have cost more than ``seconds`` at ``price``.

        Unlike a deadline, it does not count what happens once in a process: imports and compilation.
        """
        before, self._allowance = self._allowance, (price, self._spent(price) + seconds)
        try:
            yield
        finally:
            self._allowance = before

    def check_time(self) -> None:
        """Raise OutOfTime after the deadline, or when the passes have cost too much."""
        if self.deadline is not None and self.clock() > self.deadline:
            raise OutOfTime
        if self._allowance is not None and self._spent(self._allowance[0]) > self._allowance[1]:
            raise OutOfTime

    def _spent(self, price: Price) -> float:
        # a gradient is counted as one forward and one backward pass
        return price.forward * (self.forward - self.backward) + price.gradient * self.backward


class DeployedModel:
    """A classifier opened from a model file; the ``Classifier`` of every audit."""

    def __init__(
        self,
        artefact: Artefact,
        preprocessing: InputTransform,
        *,
        path: str,
        sha256: str,
        n_classes: int,
        outputs: Outputs,
        single: bool = False,
        classes: Sequence[str] | None = None,
        device: str = "cpu",
        fixed_batch: int | None = None,
        preprocessing_source: str = "",
        classes_source: str = "",
        warnings: Sequence[str] = (),
        review: Review | None = None,
    ) -> None:
        """Combine what the format plugin found with what is stated about the model.

        Args:
            artefact: the opened model file.
            preprocessing: from pixels in [0, 1] to the input of the model.
            path: the model file, as shown in the report.
            sha256: digest of the model file.
            n_classes: number of classes.
            outputs: whether the scores are logits or probabilities.
            single: whether one score stands for two classes.
            classes: class names; None if they are not known yet.
            device: device of the copy and of the deployed model.
            fixed_batch: the only batch size that the file accepts.
            preprocessing_source: where the preprocessing was stated, for the report.
            classes_source: where the class names and their order were stated, for the report.
            warnings: warnings for the report.
            review: owner, reviewer and intended use, as the sidecar states them.
        """
        self.artefact = artefact
        self.preprocessing = preprocessing
        self.preprocessing_source = preprocessing_source
        self.review = review
        self.classes_source = classes_source or "class indices: nothing states the names"
        self.path = path
        self.sha256 = sha256
        self.n_classes = n_classes
        # if the scores are stated to be logits, a final activation that was recognised is none
        overrides = outputs == "logits" and artefact.activation in {"softmax", "sigmoid"}
        activation: Activation = "none" if overrides else artefact.activation
        self.decoder = OutputDecoder(outputs=outputs, activation=activation, cut=artefact.cut, single=single)
        self.named_classes = classes
        self.device = device
        self.fixed_batch = fixed_batch
        self.batch_size = fixed_batch or 32
        self.calls = Calls()
        self.parity: Parity | None = None
        self.warnings = [*artefact.warnings, *warnings]
        self._copy = _placed(artefact, device)
        self.access_reason = artefact.copy_reason.rstrip(".")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; class indices if the model has no names."""
        return tuple(self.named_classes or (str(i) for i in range(self.n_classes)))

    @property
    def outputs(self) -> Outputs:
        """Whether the scores of the deployed model are logits or probabilities."""
        return self.decoder.outputs

    @property
    def access(self) -> Literal["white-box", "black-box"]:
        """White-box while a verified differentiable copy exists."""
        return "black-box" if self._copy is None else "white-box"

    @property
    def copy(self) -> torch.nn.Module | None:
        """The differentiable copy, from the model's own input to its raw output; use ``logits`` to evaluate it."""
        return self._copy

    @property
    def input_kind(self) -> Literal["images", "rows"]:
        """What the model takes: images or tabular data."""
        return "rows" if self.preprocessing.layout == "rows" else "images"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input: (channels, height, width) of an image, or (features,) of tabular data."""
        return self.preprocessing.shape

    def with_preprocessing(self, preprocessing: InputTransform) -> DeployedModel:
        """Return the same model with another preprocessing; both share memory and the counter of passes."""
        other = copy.copy(self)
        other.preprocessing = preprocessing
        return other

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Return class probabilities (n, k) of pixels (n, c, h, w) in [0, 1], from the deployed model.

        Images are processed in batches of ``batch_size``, which is halved permanently on out-of-memory.

        Raises:
            NotFinite: for a score that is NaN or infinite; a logit of minus infinity is a probability of 0.
        """
        return self.decoder.probabilities(self.scores(images))

    def scores(self, images: Pixels) -> NDArray[np.float32]:
        """Return the scores (n, k) of the deployed model, logits or probabilities as ``outputs`` says.

        Raises:
            NotFinite: for a score that is NaN or infinite.
        """
        return self._scores(np.asarray(images, dtype=np.float32))

    def log_probabilities(self, images: Pixels) -> NDArray[np.float32]:
        """Return logarithms of the probabilities (n, k), from the deployed model.

        They show an attacker what float32 probabilities hide: which step lowers a confidence that is rounded to 1.
        """
        return self.decoder.log_probabilities(self.scores(images))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (n, k) of pixels (n, c, h, w) in [0, 1], from the copy, under autograd.

        If the model returns probabilities without a softmax that could be removed, the logits are their logarithms.

        Raises:
            NoCopy: if the audit is black-box.
        """
        return self.decoder.logits(self._counted(images))

    def scaled_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return what gradient attacks ascend: logits (n, k) in a unit that does not depend on the model's confidence.

        The unit is a tenth of the mean range of the logits on fixed test images. Multiplying the logits of a model by a
        constant changes no prediction, so it must change no attack: without the unit, the temperature of a loss over
        several classes, the margin at which a search stops and the constants of an optimiser would depend on it. The
        softmax of these logits is not the model's probability.

        Raises:
            NoCopy: if the audit is black-box.
        """
        return self.decoder.unsaturated(self._counted(images)) * self._unit

    @cached_property
    def _unit(self) -> float:
        """Factor that gives the logits on fixed test images the mean range ``_RANGE``; 1 if all are equal."""
        import torch

        generator = np.random.default_rng(0)
        n, axes = self.fixed_batch or _TEST_IMAGES, (1,) * (len(self.shape) - 1)
        # noise around a plain colour, from none to all
        colour, noise = generator.random((n, self.shape[0], *axes)), generator.random((n, *self.shape))
        share = generator.random((n, 1, *axes))
        with torch.no_grad():
            images = self.tensor((colour * (1 - share) + noise * share).astype(np.float32))
            scores = self.decoder.unsaturated(self._copy_piece(self.preprocessing.differentiable(images))).double()
        size = float((scores.amax(1) - scores.amin(1)).mean())
        return _RANGE / size if 0 < size < np.inf else 1.0

    def _counted(self, images: torch.Tensor) -> torch.Tensor:
        """Return the output of the copy, (n, ...), and count the passes."""
        if self._copy is None:
            raise NoCopy(self.access_reason)
        self.calls.check_time()
        self.calls.forward += len(images)
        step = self.fixed_batch or max(1, len(images))
        pieces = [
            self._copy_piece(self.preprocessing.differentiable(images[i : i + step]))
            for i in range(0, len(images), step)
        ]
        output = pieces[0] if len(pieces) == 1 else _cat(pieces)
        if output.requires_grad:
            output.register_hook(self._count_backward)
        return output

    def tensor(self, images: Pixels) -> torch.Tensor:
        """Copy pixels to the device."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(self.device)

    def verify(self, images: Pixels) -> None:
        """Measure parity on ``images``; without parity, or without a gradient, continue as black-box."""
        if self._copy is None:
            return
        try:
            difference, agree = self.compare(images)
            zero_share = float((self.gradient(images[:8]) == 0).double().mean())
        except NotFinite:
            # the deployed model itself returned NaN
            raise
        except Exception as error:
            # a rebuilt graph may raise anything, and an audit without gradients is still possible
            self.drop_copy(f"the differentiable copy does not run: {first_line(error)}")
            return
        self.parity = Parity(len(images), float(difference.max()), float(agree.mean()))
        precision = self.artefact.precision
        tolerance = _TOLERANCE[precision] * max(1.0, float(self._largest_score))
        noise, repeated = 0.0, 1.0
        if not float(difference.max()) <= tolerance or agree.mean() < _AGREEMENT[precision]:
            noise, repeated = self._repeatability(images)
        if noise > tolerance:
            self.warnings.append(
                f"Equal queries get scores that differ by up to {noise:.3g}: the model is randomised. The"
                " differentiable copy is compared with it up to that difference, and attacks.adaptive averages over"
                " its answers."
            )
            # the copy draws other numbers than the deployed model, as that does in its next answer
            tolerance += 2 * noise
        if self.parity.max_abs_difference is None or not self.parity.max_abs_difference <= tolerance:
            self.drop_copy(
                "the differentiable copy differs from the deployed model: by up to"
                f" {float(difference.max()):.3g} in the scores of {len(images)} images; expected at most"
                f" {tolerance:.3g} ({precision})"
            )
        elif agree.mean() < _AGREEMENT[precision] * repeated:
            self.drop_copy(
                "the differentiable copy differs from the deployed model: the labels agree on"
                f" {100 * agree.mean():.1f} % of {len(images)} images; expected at least"
                f" {100 * _AGREEMENT[precision] * repeated:.0f} % ({precision})"
            )
        elif zero_share > 0.999:
            self.drop_copy(
                f"the copy's gradient is zero for {100 * zero_share:.1f} % of the inputs, so gradient attacks would"
                " fail and the model would appear robust"
            )

    def _repeatability(self, images: Pixels) -> tuple[float, float]:
        """Return the largest difference of the scores in three equal queries, and the share of equal labels."""
        images = np.asarray(images, dtype=np.float32)
        first, *others = (self._scores(images) for _ in range(3))
        noise = max(float(np.abs(first - scores).max()) for scores in others)
        return noise, min(float((first.argmax(1) == scores.argmax(1)).mean()) for scores in others)

    def compare(self, images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return per image the largest difference between copy and deployed model, and whether their labels agree.

        Logits are compared with logits, probabilities with probabilities.
        """
        import torch

        original = self._scores(np.asarray(images, dtype=np.float32)).astype(np.float64)
        with torch.no_grad():
            pieces = [
                self.logits(self.tensor(images[i : i + self.batch_size])).double().cpu()
                for i in range(0, len(images), self.batch_size)
            ]
        copy = self.decoder.comparable(torch.cat(pieces))
        self._largest_score = np.abs(original).max()
        answer = copy.numpy()
        # quantised outputs have ties: any of the tied labels agrees
        given = original[np.arange(len(original)), answer.argmax(axis=1)]
        return np.abs(answer - original).max(axis=1), given == original.max(axis=1)

    def gradient(self, images: Pixels) -> torch.Tensor:
        """Return the gradient of the margin (largest minus second largest logit), (n, c, h, w), from the copy."""
        import torch

        x = self.tensor(images).requires_grad_()
        top = self.logits(x).topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).sum()
        # the output of a decision (argmax, a comparison) has no gradient
        gradient = torch.autograd.grad(margin, x, allow_unused=True)[0] if margin.requires_grad else None
        return torch.zeros_like(x) if gradient is None else gradient

    def drop_copy(self, reason: str) -> None:
        """Discard the copy: the audit continues as black-box, with this reason in the report."""
        self._copy = None
        self.access_reason = reason.rstrip(".")

    def _count_backward(self, gradient: torch.Tensor) -> None:
        self.calls.backward += len(gradient)

    def _copy_piece(self, inputs: torch.Tensor) -> torch.Tensor:
        assert self._copy is not None
        n = len(inputs)
        if self.fixed_batch and n < self.fixed_batch:
            inputs = _cat([inputs, inputs[:1].expand(self.fixed_batch - n, *inputs.shape[1:])])
        answer = self._copy(inputs)
        output: torch.Tensor = answer[0] if isinstance(answer, tuple | list) else answer
        return output.reshape(len(output), -1)[:n]

    def _scores(self, images: Pixels) -> NDArray[np.float32]:
        """Raw scores (n, k) of the deployed model."""
        pieces: list[NDArray[np.float32]] = []
        start = 0
        while start < len(images):
            piece = images[start : start + self.batch_size]
            self.calls.check_time()
            try:
                pieces.append(self._score_piece(piece))
            except (RuntimeError, MemoryError) as error:
                if self.fixed_batch or self.batch_size == 1 or not is_out_of_memory(error):
                    raise
                self.batch_size //= 2
            else:
                start += len(piece)
                continue
            # after the except clause: an exception keeps the tensors of all frames that it left
            free_memory()
        self.calls.forward += len(images)
        return np.concatenate(pieces) if pieces else np.zeros((0, self.n_classes), dtype=np.float32)

    def _score_piece(self, images: Pixels) -> NDArray[np.float32]:
        n = len(images)
        if self.fixed_batch and n < self.fixed_batch:
            images = np.concatenate([images, np.repeat(images[:1], self.fixed_batch - n, axis=0)])
        if self.artefact.device_scores is not None and self.input_kind == "images":
            scores = self.artefact.device_scores(self.preprocessing.on_device(self.tensor(images)))
        else:
            scores = self.artefact.scores(self.preprocessing.apply(images))
        scores = self.decoder.scores(scores[:n])
        if not np.isfinite(scores).all():
            raise NotFinite("the model returned NaN or infinity")
        return scores


def _placed(artefact: Artefact, device: str) -> torch.nn.Module | None:
    """Move the copy to its device, in the memory layout that is fast there."""
    import torch

    if artefact.copy is None:
        return None
    copy = artefact.copy.to(device)
    if artefact.format != "onnx" or device != "cpu":
        return copy
    # on a CPU, pooling in channels-last is ten times as fast; a traced graph need not accept that layout
    for tensor in (*copy.parameters(), *copy.buffers()):
        # Module.to would also convert the five-dimensional tables of some transformers
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return copy


def _cat(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(list(pieces))
