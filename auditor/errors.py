"""The exceptions, as a tree.

    AuditorError            everything the auditor raises on purpose; the message is one sentence for the user
    ├── BadInput            unusable arguments, model, data or TOML: exit status 2
    ├── NoCopy              the model has no differentiable copy: the audit continues as black-box
    ├── NotApplicable       the model or the data lack what a probe measures
    ├── NotFinite           the model answers NaN or infinity: the image is named and left out
    └── PluginBroken        a plugin does not import or breaks a rule: it is named, the audit continues, exit status 3

Every message names the object, what was found, what was expected, and what to do.
"""

import traceback
from pathlib import Path

from auditor.printable import printable_text


class AuditorError(Exception):
    """Base class of everything the auditor raises on purpose."""

    def __str__(self) -> str:
        """Return the message; file names in it may hold any bytes."""
        return printable_text(super().__str__())


class BadInput(AuditorError):
    """The arguments or files of a command cannot be used (exit status 2)."""


class NoCopy(AuditorError):
    """No differentiable copy of the model can be made; the message becomes ``access_reason`` in the report."""


class PluginBroken(AuditorError):
    """A plugin could not be imported, or breaks a rule of the registry."""


class NotApplicable(AuditorError):
    """Raised by ``Probe.measure``: the model or these images lack what the probe measures.

    The message says what is missing; it becomes the reason in the report.
    """


class NotFinite(AuditorError, ArithmeticError):
    """The model returned NaN or infinity for an image."""


class OutOfTime(BaseException):
    """The time of a probe is over: raised at the next pass of the model, wherever the probe is in its search.

    Not an Exception, because a probe may catch those.
    """


def one_line(error: BaseException) -> str:
    """Describe an exception in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_line(error) if str(error) else 'no message'}{place}"


def first_line(error: BaseException) -> str:
    """Return the message of an exception in one line; the name of its type if it has none."""
    lines = [line.strip() for line in printable_text(str(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Test whether an error of torch, ONNX Runtime or Python means that a smaller batch may succeed."""
    text = str(error).lower()
    signs = ("out of memory", "failed to allocate", "can't allocate", "bad allocation", "bad_alloc", "alloc_failed")
    return isinstance(error, MemoryError) or any(sign in text for sign in signs)
