"""The audited classifier: the deployed artefact in its own runtime and, where one can be made, its differentiable copy.

Attack the copy, judge on the original: ``predict`` always asks the artefact itself; ``logits`` asks the copy, under
autograd. Both take pixels in [0, 1]; what the model wants instead (range, mean, channel order, layout) is applied here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from auditor.errors import NoCopy
from auditor.model.scores import Activation, OutputDecoder, Outputs

if TYPE_CHECKING:
    import torch

    from auditor.data.dataset import Pixels
from auditor.model.artefact import Artefact, Precision
from auditor.model.preprocessing import Preprocessing

_TOLERANCE: Mapping[Precision, float] = {"float32": 1e-3, "float16": 2e-2, "int8": 0.25}
"""Largest difference of copy and original, relative to the largest score, at which the copy still is the model.

Quantised models differ between runtimes by up to a tenth of the score's range; for them agreement of labels decides."""

_AGREEMENT: Mapping[Precision, float] = {"float32": 0.99, "float16": 0.98, "int8": 0.95}
"""Least share of images to which copy and original must give the same label."""


class Parity(NamedTuple):
    """How far the copy is the original, on real images."""

    n: int
    max_abs_difference: float | None
    label_agreement: float | None


@dataclass
class Calls:
    """Images that went through the network, original and copy together."""

    forward: int = 0
    backward: int = 0


class Classifier:
    """A deployed image classifier."""

    def __init__(  # one place where everything is known about the model
        self,
        artefact: Artefact,
        preprocessing: Preprocessing,
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
        warnings: Sequence[str] = (),
    ) -> None:
        """``classes`` None: the model's classes have no names yet; ``fixed_batch``: the only batch the file takes;
        ``single``: its one score stands for two classes."""
        self.artefact = artefact
        self.preprocessing = preprocessing
        self.preprocessing_source = preprocessing_source
        self.path = path
        self.sha256 = sha256
        self.n_classes = n_classes
        # where the scores are said to be logits, the file's end is not what it looks like
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
        """Names of the classes; their numbers where the model has no names."""
        return tuple(self.named_classes or (str(i) for i in range(self.n_classes)))

    @property
    def outputs(self) -> Outputs:
        """What the scores of the original are."""
        return self.decoder.outputs

    @property
    def access(self) -> Literal["white-box", "black-box"]:
        """White-box while there is a copy that was not found wanting."""
        return "black-box" if self._copy is None else "white-box"

    @property
    def copy(self) -> torch.nn.Module | None:
        """The differentiable copy as it is, from the model's own input; ``logits`` is how to ask it."""
        return self._copy

    @property
    def input_kind(self) -> Literal["images", "rows"]:
        """What the model is asked about."""
        return "rows" if self.preprocessing.layout == "rows" else "images"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an image."""
        return self.preprocessing.shape

    def with_preprocessing(self, preprocessing: Preprocessing) -> Classifier:
        """The same model behind another preprocessing: same files, same memory, its passes counted as this one's."""
        other = copy.copy(self)
        other.preprocessing = preprocessing
        return other

    def predict(self, images: Pixels) -> NDArray[np.float32]:
        """Class probabilities (n, k) of pixels (n, c, h, w) in [0, 1], from the original.

        Works in pieces of ``batch_size``, which it halves for good when the memory does not suffice.
        """
        return self.decoder.probabilities(self._scores(np.asarray(images, dtype=np.float32)))

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, k) of pixels (n, c, h, w) in [0, 1], from the copy, under autograd.

        Where the file gives probabilities and no softmax to cut, these are their logarithms. Raises NoCopy.
        """
        if self._copy is None:
            raise NoCopy(self.access_reason)
        self.calls.forward += len(images)
        step = self.fixed_batch or max(1, len(images))
        pieces = [
            self._copy_piece(self.preprocessing.differentiable(images[i : i + step]))
            for i in range(0, len(images), step)
        ]
        logits = pieces[0] if len(pieces) == 1 else _cat(pieces)
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def tensor(self, images: Pixels) -> torch.Tensor:
        """Pixels on the device."""
        import torch

        return torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)).to(self.device)

    def verify(self, images: Pixels) -> None:
        """Measure the parity of copy and original on ``images``; without it, or without a gradient, go black-box."""
        if self._copy is None:
            return
        try:
            difference, agree = self.compare(images)
            zero_share = float((self.gradient(images[:8]) == 0).double().mean())
        except ArithmeticError:
            # the original itself answers NaN, which is no fault of the copy
            raise
        except Exception as error:
            # whatever a rebuilt graph raises, an audit without gradients is still an audit
            self.drop_copy(f"the differentiable copy does not run: {first_line(error)}")
            return
        self.parity = Parity(len(images), float(difference.max()), float(agree.mean()))
        precision = self.artefact.precision
        tolerance = _TOLERANCE[precision] * max(1.0, float(self._largest_score))
        if self.parity.max_abs_difference is None or not self.parity.max_abs_difference <= tolerance:
            self.drop_copy(
                f"the differentiable copy is not the model: scores differ by up to {float(difference.max()):.3g}"
                f" on {len(images)} images; expected at most {tolerance:.3g} ({precision})"
            )
        elif agree.mean() < _AGREEMENT[precision]:
            self.drop_copy(
                f"the differentiable copy is not the model: it gives the same label to {100 * agree.mean():.1f} % of"
                f" {len(images)} images; expected at least {100 * _AGREEMENT[precision]:.0f} % ({precision})"
            )
        elif zero_share > 0.999:
            self.drop_copy(
                f"the copy's gradient is zero at {100 * zero_share:.1f} % of the inputs, so gradient attacks would"
                " see nothing and call the model robust"
            )

    def compare(self, images: Pixels) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Per image the largest difference between copy and original, and whether the labels agree.

        Compared are the scores that the original gives: logits with logits, probabilities with probabilities.
        """
        import torch

        original = self._scores(np.asarray(images, dtype=np.float32)).astype(np.float64)
        with torch.no_grad():
            pieces = [self.logits(self.tensor(images[i : i + self.batch_size])).double().cpu()
                      for i in range(0, len(images), self.batch_size)]  # fmt: skip
        copy = self.decoder.comparable(torch.cat(pieces))
        self._largest_score = np.abs(original).max()
        answer = copy.numpy()
        # a quantised output has ties; whichever of the tied labels the copy gives, it agrees
        given = original[np.arange(len(original)), answer.argmax(axis=1)]
        return np.abs(answer - original).max(axis=1), given == original.max(axis=1)

    def gradient(self, images: Pixels) -> torch.Tensor:
        """Gradient of each image's margin, top logit less the runner-up, (n, c, h, w), from the copy."""
        import torch

        x = self.tensor(images).requires_grad_()
        top = self.logits(x).topk(2, dim=1).values
        margin = (top[:, 0] - top[:, 1]).sum()
        # an answer that is a decision already depends on the image, but has no gradient at all
        gradient = torch.autograd.grad(margin, x, allow_unused=True)[0] if margin.requires_grad else None
        return torch.zeros_like(x) if gradient is None else gradient

    def drop_copy(self, reason: str) -> None:
        """Give up the copy: from here on the audit is black-box and says why."""
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
        return self.decoder.logits(output.reshape(len(output), -1)[:n])

    def _scores(self, images: Pixels) -> NDArray[np.float32]:
        """Raw scores (n, k) from the original."""
        pieces: list[NDArray[np.float32]] = []
        start = 0
        while start < len(images):
            piece = images[start : start + self.batch_size]
            try:
                pieces.append(self._score_piece(piece))
            except (RuntimeError, MemoryError) as error:
                if self.fixed_batch or self.batch_size == 1 or not is_out_of_memory(error):
                    raise
                self.batch_size //= 2
                continue
            start += len(piece)
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
            raise ArithmeticError("the model answered NaN or infinity")
        return scores


def _placed(artefact: Artefact, device: str) -> torch.nn.Module | None:
    """The copy on its device, in the layout in which it is fast there."""
    import torch

    if artefact.copy is None:
        return None
    copy = artefact.copy.to(device)
    if artefact.format != "onnx" or device != "cpu":
        return copy
    # on a CPU pooling of channels-last is ten times as fast; our own operators take either, a traced graph need not
    for tensor in (*copy.parameters(), *copy.buffers()):
        # not Module.to, which takes the five dimensions of some transformers' tables for images, too
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return copy


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch, ONNX Runtime or Python means that a smaller batch may work."""
    text = str(error).lower()
    signs = ("out of memory", "failed to allocate", "can't allocate", "bad allocation", "bad_alloc", "alloc_failed")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _cat(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    import torch

    return torch.cat(list(pieces))
