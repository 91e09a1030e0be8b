"""What a run folder from someone else can do to the commands that read it: nothing but be refused."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from auditor.errors import AuditorError, BadInput, one_line


@contextmanager
def from_folders(folders: Sequence[Path]) -> Iterator[None]:
    """Raise BadInput in place of an exception of the context, which reads these run folders.

    The JSON Schema and the digests do not state everything that the code assumes of a record: that a label is one of
    the classes, or that two lists have the same length.
    """
    try:
        yield
    except (AuditorError, OSError):
        raise
    except Exception as error:
        named = ", ".join(str(folder) for folder in folders)
        raise BadInput(
            f"{named}: audit.json, manifest.json or a record does not have the form that auditor writes"
            f" ({one_line(error)[:200]}); audit the model again; for an unchanged folder, report this as a bug"
        ) from error
