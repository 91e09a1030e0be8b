"""Which characters of a report no installed font can draw; the PDF would show boxes for them."""

from __future__ import annotations

import ctypes
import ctypes.util
import unicodedata
from collections.abc import Iterator
from functools import cache

from auditor.findings.record import AuditRecord

MAX_NAMED = 8
"""Characters that the message shows."""

PACKAGES = {
    "CJK": "fonts-noto-cjk",
    "HANGUL": "fonts-noto-cjk",
    "HIRAGANA": "fonts-noto-cjk",
    "KATAKANA": "fonts-noto-cjk",
    "FULLWIDTH": "fonts-noto-cjk",
    "IDEOGRAPHIC": "fonts-noto-cjk",
}
"""First word of a character's Unicode name -> Debian package with a font for it; the others are in fonts-noto-core."""

SAMPLES = {
    "Latin": "é",
    "Greek": "Ω",
    "Cyrillic": "Ж",
    "Chinese and Japanese": "漢",
    "Korean": "한",
    "Devanagari": "ह",
    "Arabic": "ع",
    "Hebrew": "ש",
    "emoji": "\N{GRINNING FACE}",
}
"""Script -> a character of it, for `auditor doctor`."""

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp", "Zs")
"""Unicode categories that need no glyph: control and format characters, surrogates, spaces."""

_SELECTORS = range(0xFE00, 0xFE10)
"""Variation selectors, which choose a form of the character before them."""


class _FontSet(ctypes.Structure):
    """The start of fontconfig's FcFontSet."""

    _fields_ = (("fonts", ctypes.c_int), ("room", ctypes.c_int))


@cache
def _fontconfig() -> ctypes.CDLL | None:
    """Return the library, with its types declared; None where it is not found."""
    name = ctypes.util.find_library("fontconfig") or ctypes.util.find_library("fontconfig-1")
    if name is None:
        return None
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    pointer = ctypes.c_void_p
    for function in ("FcPatternCreate", "FcCharSetCreate", "FcObjectSetCreate"):
        getattr(library, function).restype = pointer
    library.FcFontList.restype = ctypes.POINTER(_FontSet)
    library.FcFontList.argtypes = [pointer, pointer, pointer]
    library.FcCharSetAddChar.argtypes = [pointer, ctypes.c_uint32]
    library.FcPatternAddCharSet.argtypes = [pointer, ctypes.c_char_p, pointer]
    library.FcObjectSetAdd.argtypes = [pointer, ctypes.c_char_p]
    for function in ("FcPatternDestroy", "FcCharSetDestroy", "FcObjectSetDestroy"):
        getattr(library, function).argtypes = [pointer]
    library.FcFontSetDestroy.argtypes = [ctypes.POINTER(_FontSet)]
    return library


def missing_characters(text: str) -> list[str]:
    """Return the distinct characters of a text that no installed font has, in the order of their code points.

    Where fontconfig is not found nothing is known, and the list is empty.
    """
    library = _fontconfig()
    if library is None:
        return []
    wanted = sorted({each for each in text if not each.isascii() and ord(each) not in _SELECTORS})
    visible = [each for each in wanted if unicodedata.category(each) not in _INVISIBLE]
    return [each for each in visible if not _has_font(library, each)]


def _has_font(library: ctypes.CDLL, character: str) -> bool:
    pattern, characters, names = library.FcPatternCreate(), library.FcCharSetCreate(), library.FcObjectSetCreate()
    library.FcCharSetAddChar(characters, ord(character))
    library.FcPatternAddCharSet(pattern, b"charset", characters)
    library.FcObjectSetAdd(names, b"family")
    found = library.FcFontList(None, pattern, names)
    fonts = int(found.contents.fonts) if found else 0
    if found:
        library.FcFontSetDestroy(found)
    library.FcObjectSetDestroy(names)
    library.FcCharSetDestroy(characters)
    library.FcPatternDestroy(pattern)
    return fonts > 0


def missing_glyphs(audit: AuditRecord) -> str:
    """Say in one sentence which characters of an audit the PDF cannot draw, and what to install; "" if all are drawn.

    The texts of the package use no such characters: class names, groups, paths and plugins bring them.
    """
    missing = missing_characters("".join(_texts(audit)))
    if not missing:
        return ""
    named = ", ".join(f"{each} (U+{ord(each):04X})" for each in missing[:MAX_NAMED])
    more = f" and {len(missing) - MAX_NAMED} more" if len(missing) > MAX_NAMED else ""
    packages = sorted({_package(each) for each in missing})
    count = "1 character has" if len(missing) == 1 else f"{len(missing)} characters have"
    return (
        f"{count} no font on the machine that wrote the PDF, which shows a box instead: {named}{more}; install a font "
        f"(Debian, Ubuntu: apt install {' '.join(packages)}), then run `auditor report RUN`"
    )


def _package(character: str) -> str:
    words = unicodedata.name(character, "UNKNOWN").split()
    return PACKAGES.get(words[0], "fonts-noto-core")


def _texts(value: object) -> Iterator[str]:
    """Yield all strings of a record, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield str(key)
            yield from _texts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
