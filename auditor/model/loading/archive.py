"""Check a PyTorch archive without running or unpickling its content.

A TorchScript archive contains source code, some of which (``__setstate__``) runs while the file is loaded. An archive
of ``torch.export`` contains pickles, and JSON whose names are looked up in ``torch`` and whose formulas are evaluated.
So both are read as text first, and everything that is not on an allow list is refused.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from auditor.errors import BadInput

EXPORT = "export it with torch.jit.trace(model.eval(), example).save('model.pt') or torch.onnx.export"
"""How to export a file that can be audited."""
_TRUST = "--trust-model opens it anyway"

_OUTSIDE = re.compile(rb"\b(save|from_file|rpc_async|rpc_sync|rpc_remote)\b")
"""Operators of the namespaces below that read or write files or call other machines.

The bare word is enough to refuse a file, because TorchScript code can rename an operator before calling it."""
_NAMESPACE = re.compile(rb"(?<![\w.])ops\b(?:\s*\.\s*(\w+)\s*\.)?")
_NAMESPACES = {b"aten", b"prim", b"quantized", b"torchvision"}
_CLASS = re.compile(rb"\btorch\s*\.\s*classes\b(?:\s*[.\n]\s*(\w+))?|\btorch\nclasses\b")
_CLASSES = {b"quantized"}
"""C++ classes that code and pickles may name; others can open libraries and connections."""


def open_zip(file: Path | IO[bytes], path: Path, what: str) -> zipfile.ZipFile:
    """Open an archive in which PyTorch's reader and ours see the same files; raise BadInput otherwise."""
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError):
        raise BadInput(f"{path}: not {what}, or incomplete; {EXPORT}") from None
    names = [entry.filename for entry in archive.infolist()]
    assert archive.fp is not None
    archive.fp.seek(0)
    # readers that start at the beginning must also find a ZIP archive, and names must be unique
    if archive.fp.read(4) != b"PK\x03\x04" or len({name.casefold() for name in names}) < len(names):
        raise BadInput(
            f"{path}: not a plain ZIP archive (extra data in front, or two files of the same name); {EXPORT}"
        )
    return archive


def read_entry(archive: zipfile.ZipFile, name: str | zipfile.ZipInfo, path: Path) -> bytes:
    """Read one file of the archive; raise BadInput if it is damaged."""
    try:
        return archive.read(name)
    except (zipfile.BadZipFile, KeyError, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise BadInput(f"{path}: a damaged archive: {error}; save or download it again") from None
    except Exception as error:
        # zlib.error and others share no base class
        raise BadInput(f"{path}: a damaged archive: {type(error).__name__}: {error}") from None


def check_torchscript(path: Path, *, trust: bool) -> None:
    """Raise BadInput for a file that is not a TorchScript archive, or whose code may access more than tensors."""
    with open_zip(path, path, "a TorchScript archive") as archive:
        names = archive.namelist()
        root = names[0].partition("/")[0] + "/" if names else ""
        if root + "archive_format" in names:
            raise BadInput(f"{path}: a torch.export archive; rename it to {path.stem}.pt2")
        if not any("/code/" in name or name.endswith("constants.pkl") for name in names):
            raise BadInput(f"{path}: a pickled module or a state_dict, not TorchScript; {EXPORT}")
        if trust:
            return
        for entry in archive.infolist():
            if entry.filename.endswith("model.json"):
                raise BadInput(f"{path}: TorchScript from before 2019, which cannot be checked; {EXPORT}; {_TRUST}")
            if entry.filename.endswith((".py", ".pkl")):
                found = _outside(read_entry(archive, entry, path), code=entry.filename.endswith(".py"))
                if found:
                    raise BadInput(
                        f"{path}: its code ({entry.filename}) names {found}, which can access files, other machines or"
                        f" the process itself; expected tensor operators only ({_TRUST})"
                    )


def _outside(content: bytes, *, code: bool) -> str:
    """Return the first name in TorchScript source (or a pickle) that is not a tensor operator or class."""
    for match in _CLASS.finditer(content):
        if match[1] not in _CLASSES:
            return f"the class torch.classes.{(match[1] or b'?').decode()}"
    if not code:
        return ""
    for match in _NAMESPACE.finditer(content):
        if match[1] not in _NAMESPACES:
            return f"operators of {(match[1] or b'another namespace').decode()}"
    for match in _OUTSIDE.finditer(content):
        return f"the operator {match[1].decode()}"
    return ""


def traced_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of the first input that a TorchScript file was traced with; () if it is not stored."""
    with open_zip(path, path, "a TorchScript archive") as archive:
        for name in archive.namelist():
            if name.endswith("traced_inputs.pkl"):
                try:
                    return _first_shape(read_entry(archive, name, path))
                except ValueError:
                    return ()
    return ()


def _first_shape(content: bytes) -> tuple[int, ...]:
    """Read the sizes of the first tensor in a pickle from its instructions: a storage, an offset, the sizes."""
    numbers: list[int] | None = None
    for code, value, _ in pickletools.genops(content):
        if code.name == "BINPERSID":
            numbers = []
        elif numbers is not None and isinstance(value, int) and not code.name.endswith("PUT"):
            numbers.append(value)
        elif numbers is not None and code.name.startswith("TUPLE"):
            return tuple(numbers[1:])
    return ()


def on_device(path: Path, device: str) -> IO[bytes] | Path:
    """Return a TorchScript file with the devices in its code replaced by ``device``; any other file unchanged.

    ``map_location`` moves only the weights. Traced code names the device of the trace wherever it creates a tensor.
    """
    with open_zip(path, path, "a TorchScript archive") as archive:
        files = {name: read_entry(archive, name, path) for name in archive.namelist() if name.endswith(".py")}
        changed = {name: _DEVICE.sub(f'torch.device("{device}")'.encode(), code) for name, code in files.items()}
        if changed == files:
            return path
        moved = io.BytesIO()
        with zipfile.ZipFile(moved, "w") as copied:
            for name in archive.namelist():
                copied.writestr(name, changed[name] if name in changed else read_entry(archive, name, path))
    moved.seek(0)
    return moved


_DEVICE = re.compile(rb'torch\.device\("(cpu|cuda|mps|xpu)(:\d+)?"\)')
_ENTRIES = re.compile(
    r"(\.data/\w+|archive_format|archive_version|byteorder|version|models/model\.json|data/sample_inputs/model\.pt"
    r"|data/(weights|constants)/[\w.]+|extra/.*)"
)
_SAFE_TARGET = re.compile(
    r"torch\.ops\.aten\.(?!save\b|from_file\b)\w+\.\w+|torch\.sym_\w+|math\.(trunc|ceil|floor|sqrt)"
    r"|_operator\.(getitem|add|sub|mul|truediv|floordiv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|not_|abs)"
    r"|torch\.ops\.higher_order\.(wrap_with_set_grad_enabled|wrap_with_autocast)"
)
_SAFE_NAME = re.compile(r"[\w.]+")
_SAFE_FORMULA = re.compile(r"[\w\s+\-*/%(),<>=&|~]*")
_WORD = re.compile(r"[^\W\d]\w*")
_SYMBOL = re.compile(r"Symbol\('[a-z]{1,3}\d+'(, \w+=(True|False))*\)|\b[a-z]{1,3}\d+\b")
_FUNCTIONS = {
    "FloorDiv",
    "ModularIndexing",
    "Where",
    "PythonMod",
    "Mod",
    "CleanDiv",
    "CeilToInt",
    "FloorToInt",
    "CeilDiv",
    "PowByNatural",
    "FloatPow",
    "FloatTrueDiv",
    "IntTrueDiv",
    "TruncToFloat",
    "TruncToInt",
    "RoundToInt",
    "ToFloat",
    "Identity",
    "Max",
    "Min",
    "Eq",
    "Ne",
    "Le",
    "Lt",
    "Ge",
    "Gt",
    "And",
    "Or",
    "Not",
    "floor",
    "ceiling",
    "oo",
    "int_oo",
    "True",
    "False",
    "Add",
    "Mul",
    "Pow",
    "Integer",
    "Rational",
}


def check_exported(archive: zipfile.ZipFile, path: Path) -> bytes:
    """Raise BadInput for a torch.export archive that requires unpickling or runs anything but ATen operators.

    Returns the sample inputs, a pickle that must load under ``weights_only``.
    """
    names = archive.namelist()
    root = names[0].partition("/")[0] + "/" if names else ""
    for name in names:
        if not name.startswith(root) or not _ENTRIES.fullmatch(name.removeprefix(root)):
            raise BadInput(f"{path}: contains {name!r}, which torch.export.save does not write; {EXPORT} ({_TRUST})")
    for kind in ("weights", "constants"):
        for fqn, entry in _config(archive, f"{root}data/{kind}/model_{kind}_config.json", path).items():
            if entry.get("use_pickle") or not re.fullmatch(r"(weight|tensor)_\d+", str(entry.get("path_name"))):
                raise BadInput(
                    f"{path}: its {kind[:-1]} {str(fqn)[:60]!r} is a pickle, which can run any code when it is read;"
                    f" {EXPORT} ({_TRUST})"
                )
    program = _json(read_entry(archive, root + "models/model.json", path), path)
    for why in _unsafe(program, ""):
        raise BadInput(f"{path}: its program {why}; expected ATen operators only ({_TRUST})")
    return read_entry(archive, root + "data/sample_inputs/model.pt", path)


def _json(content: bytes, path: Path) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path}: a damaged archive: {error}") from None


def _config(archive: zipfile.ZipFile, name: str, path: Path) -> dict[str, Any]:
    content = _json(read_entry(archive, name, path), path)
    found = content.get("config") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise BadInput(f"{path}: a damaged archive: {name} is not a table of tensors")
    return found


def _unsafe(item: Any, key: str) -> Iterator[str]:
    """Yield what the JSON of a program looks up, evaluates or writes into code and is not on the lists above."""
    if isinstance(item, dict):
        for name, value in item.items():
            # stack traces: names in them are looked up but never called
            if name != "metadata":
                yield from _unsafe(value, name)
    elif isinstance(item, list):
        for value in item:
            yield from _unsafe(value, key)
    elif isinstance(item, str):
        if key == "target" and not (_SAFE_TARGET.fullmatch(item) or item.isidentifier()):
            yield f"calls {item[:80]!r}"
        elif key.endswith(("name", "names")) and item and not _SAFE_NAME.fullmatch(item):
            yield f"has a value called {item[:80]!r}"
        elif key == "expr_str" and not _is_formula(item):
            yield f"has the formula {item[:80]!r}"
        elif key in {"as_custom_obj", "class_fqn", "type_hint", "as_operator"}:
            yield f"has an object, {item[:80]!r}"


def _is_formula(text: str) -> bool:
    rest = _SYMBOL.sub("", text)
    return bool(_SAFE_FORMULA.fullmatch(rest)) and set(_WORD.findall(rest)) <= _FUNCTIONS
