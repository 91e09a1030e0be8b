"""Hide the warnings of libraries: they are for developers; the report has those that matter to an audit."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def hide_library_warnings() -> Iterator[None]:
    """Hide warnings and log messages up to the level "warning" while the context lasts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)
