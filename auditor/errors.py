"""What can go wrong, as a tree.

    AuditorError            anything the auditor raises on purpose; carries one sentence for the user
    ├── BadInput            arguments, model, data or TOML that cannot be used: exit status 2
    ├── NoCopy              the artefact has no differentiable copy: the audit goes on black-box
    ├── NotApplicable       a probe found that this model or data has not got what it is about
    └── PluginBroken        a plugin that does not import or breaks a rule: named, the audit goes on, exit status 3

Every message names the thing, what was found, what was expected, and what to do.
"""

import traceback
from pathlib import Path


class AuditorError(Exception):
    """Base of everything that the auditor raises on purpose."""


class BadInput(AuditorError):
    """The command's arguments or files cannot be used (exit status 2)."""


class NoCopy(AuditorError):
    """No differentiable copy of the artefact can be made; the message is the report's ``access_reason``."""


class PluginBroken(AuditorError):
    """A plugin could not be imported or breaks a rule of the registry."""


class NotApplicable(AuditorError):
    """Raised by a probe's ``measure``: this model or these images have not got what the probe is about. The message
    says what is missing; it becomes the reason in the report."""


def one_line(error: BaseException) -> str:
    """An exception in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}{place}"
