r"""File names as printable text: a name may hold any bytes, but ids, reports and terminals need text.

Python represents bytes that are not UTF-8 as lone surrogates, which no file, terminal or report accepts. They, control
characters and marks that change the direction of the text are written as escapes: ``\xNN`` for a byte (from 80 on: one
that is not UTF-8), ``\uNNNN`` for other characters. Different names stay different, and ``original`` returns the name.
"""

from __future__ import annotations

import os
import re

_UNPRINTABLE = r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
"""Control characters, line separators, marks that change the direction of the text, and lone surrogates."""

_IN_TEXT = re.compile(_UNPRINTABLE)
_IN_NAME = re.compile(rf"{_UNPRINTABLE}|\\(?=[xu\\]|{_UNPRINTABLE})")
_ESCAPE = re.compile(r"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|\\)")


def printable_name(name: str | os.PathLike[str]) -> str:
    """Return a name with escapes; a backslash that could be mistaken for the start of one is doubled."""
    return _IN_NAME.sub(_escape, os.fspath(name))


def printable_text(text: str) -> str:
    """Escape what cannot be printed in a message, which may hold printable names; line ends and tabs are kept."""
    return _IN_TEXT.sub(lambda found: found[0] if found[0] in "\n\t" else _escape(found), text)


def original(name: str) -> str:
    """Return the name that ``printable_name`` was given."""

    def character(found: re.Match[str]) -> str:
        if found[1]:
            code = int(found[1], 16)
            return chr(0xDC00 + code) if code >= 0x80 else chr(code)
        return chr(int(found[2], 16)) if found[2] else "\\"

    return _ESCAPE.sub(character, name)


def _escape(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"
