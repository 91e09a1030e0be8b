"""Read the files that a table or a folder names, on this machine or at a URI."""

from __future__ import annotations

import copy
import json
import os
import posixpath
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from auditor import BadInput
from auditor.data.location import Uri, is_uri
from auditor.errors import first_line
from auditor.printable import original

if TYPE_CHECKING:
    from PIL import Image

_T = TypeVar("_T")

_ATTEMPTS = 3

_PAUSE = 1.0
"""Seconds before the second attempt; twice as many before the third."""

_IDENTITY = ("ETag", "etag", "md5Hash", "content_md5", "generation", "version_id")
"""What file systems say about a file that changes with its content; a time may stay the same for a second."""

_EXTRAS = {"s3": "s3", "gs": "gs", "http": "https", "https": "https"}
"""Extra of this package that installs what a file system needs, by the scheme of its URIs."""


class Files(Protocol):
    """Files by name, relative to a folder."""

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def read(self, name: str) -> tuple[bytes, Image.Image]:
        """Return the bytes of an image file and the decoded picture. Raises OSError if it is not readable."""

    def stamp(self, name: str) -> str:
        """Return what changes with the content of a file; empty if that is unknown."""


class LocalFiles:
    """Files in a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return (self._folder / name).exists()

    def read(self, name: str) -> tuple[bytes, Image.Image]:
        """Read an image file."""
        from auditor.data.resizing import read_file

        return read_file(self._folder / name)

    def stamp(self, name: str) -> str:
        """Return size, times and inode."""
        from auditor.data.looks import file_stamp

        # joining path objects would take longer than looking at the file
        return file_stamp(os.path.join(self._folder, name))  # noqa: PTH118


class RemoteFiles:
    """Files at a URI, read through fsspec; names are relative to it, or URIs of the same file system."""

    def __init__(self, uri: Uri) -> None:
        """Raises BadInput for an unknown file system, or one whose package is not installed."""
        import fsspec

        self.uri = uri
        try:
            self._files, self._root = fsspec.url_to_fs(uri)
        except ImportError as error:
            extra = _EXTRAS.get(uri.partition("://")[0])
            advice = f"pip install 'auditor[{extra}]'" if extra else "install the package and start again"
            raise BadInput(f"{uri.shown}: {first_line(error)}; {advice}") from None
        except ValueError as error:
            raise BadInput(
                f"{uri.shown}: {first_line(error)}; expected a file system that fsspec knows, such as s3://, gs://, az://"
                " or https://"
            ) from None
        except Exception as error:
            # an archive that is not there, a server that does not answer
            raise BadInput(f"{uri.shown}: cannot be opened: {type(error).__name__}: {first_line(error)}") from None
        self._folders: dict[str, dict[str, str]] = {}

    @property
    def is_file(self) -> bool:
        """Whether the URI is that of one file. Raises BadInput if there is nothing."""
        if self._attempt("look up", lambda: self._files.isfile(self._root)):
            return True
        if not self._attempt("look up", lambda: self._files.exists(self._root)):
            raise BadInput(f"{self.uri.shown}: no such file or folder")
        return False

    @property
    def parent(self) -> RemoteFiles:
        """The files next to the file at this URI."""
        return self._at(posixpath.dirname(self._root))

    def below(self, folder: str) -> RemoteFiles:
        """Return the files in a folder in it; "." is the folder itself."""
        return self._at(self._path(folder))

    def _at(self, root: str) -> RemoteFiles:
        other = copy.copy(self)
        other._root = root
        return other

    def names(self) -> list[str]:
        """Return the names of all files in the folder and its sub-folders, sorted as paths are."""
        found = self._attempt("list", lambda: self._files.find(self._root, detail=True))
        prefix = self._root.rstrip("/") + "/" if self._root else ""
        names = {path.removeprefix(prefix).lstrip("/"): _identity(info) for path, info in found.items()}
        for name, identity in names.items():
            self._folders.setdefault(posixpath.dirname(self._path(name)), {})[posixpath.basename(name)] = identity
        return sorted(names, key=lambda name: PurePosixPath(name).parts)

    def copy(self, name: str, folder: Path) -> Path:
        """Copy a file into a folder of this machine and return its path; an empty name is the file at the URI."""
        target = folder / (name or self.uri.name)
        if folder.resolve() not in target.resolve().parents:
            raise BadInput(f"{self.uri.shown}: has a file called {name!r}, which would be outside of its folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._attempt(f"read {name}", lambda: self._files.get_file(self._path(name), str(target)))
        except FileNotFoundError:
            raise BadInput(f"{self.uri.shown}: no such file") from None
        return target

    def exists(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return bool(self._attempt(f"look up {name}", lambda: self._files.exists(self._path(name))))

    def read(self, name: str) -> tuple[bytes, Image.Image]:
        """Read an image file."""
        from auditor.data.resizing import decode

        return decode(self._attempt(f"read {name}", lambda: self._files.cat_file(self._path(name))))

    def stamp(self, name: str) -> str:
        """Return what the file system says about the content, from one listing of each folder."""
        folder, last = posixpath.split(self._path(name))
        if folder not in self._folders:
            try:
                entries = self._files.ls(folder, detail=True)
            except Exception:
                # not every file system can list, and errors are reported when the file is read
                entries = []
            self._folders[folder] = {posixpath.basename(info["name"]): _identity(info) for info in entries}
        return self._folders[folder].get(last, "")

    def _path(self, name: str) -> str:
        if is_uri(name):
            protocols = (self._files.protocol,) if isinstance(self._files.protocol, str) else self._files.protocol
            if name.partition("://")[0] not in protocols:
                raise BadInput(f"{self.uri.shown}: names {Uri(name).shown}; expected files of one file system")
            path: str = self._files._strip_protocol(name)
            return path
        if not name:
            return str(self._root)
        return posixpath.normpath(posixpath.join(self._root, name)) if self._root else name

    def _attempt(self, doing: str, action: Callable[[], _T]) -> _T:
        """Return the result of an action, which is tried again after an error of the network.

        Raises FileNotFoundError for a file that is not there, and BadInput for other errors: an image that is there
        must not be left out.
        """
        for attempt in range(_ATTEMPTS):
            try:
                return action()
            except FileNotFoundError:
                raise
            except PermissionError as error:
                raise BadInput(
                    f"{self.uri.shown}: may not {doing}: {first_line(error)}; check the credentials"
                ) from None
            except Exception as error:
                # each file system has its own exceptions
                failure = error
            time.sleep(_PAUSE * 2**attempt if attempt + 1 < _ATTEMPTS else 0)
        raise BadInput(
            f"{self.uri.shown}: could not {doing} in {_ATTEMPTS} attempts ({type(failure).__name__}:"
            f" {first_line(failure)}); check network and credentials, and start again: what is measured is kept"
        )


def files_of(folder: Files, names: Sequence[str]) -> Files:
    """Return the files that a table in ``folder`` names: there, or wherever their URIs are.

    Raises BadInput if some names are URIs and others are not.
    """
    addresses = [name for name in names if is_uri(name)]
    if not addresses or isinstance(folder, RemoteFiles):
        return folder
    if len(addresses) < len(names):
        other = next(name for name in names if not is_uri(name))
        raise BadInput(f"{Uri(addresses[0]).shown}: is a URI and {other} is not; expected only URIs or only paths")
    return RemoteFiles(Uri(addresses[0]))


def existing(files: Files, stated: str) -> str:
    """Return the name of a file; one that no table can hold is stated with the escapes that ids have."""
    return original(stated) if "\\" in stated and files.exists(original(stated)) else stated


def _identity(info: dict[str, Any]) -> str:
    """Return what a file system says about the content of a file; empty if nothing does."""
    known = {key: str(info[key]) for key in _IDENTITY if info.get(key)}
    return json.dumps([info.get("size"), known], sort_keys=True) if known else ""
