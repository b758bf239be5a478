"""File names that are safe on every common system, from what users, servers and URLs suggest.

Pure. A name made here has no separator, control, format or surrogate character, none that Windows forbids
(so the directory can be copied anywhere), no leading dot (those are the store's own, see `OWN`), no trailing
dot or space, is no device, is in Unicode NFC and takes at most `LIMIT` bytes of UTF-8.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

from nearfar.download.model import Head, Job, Reason
from nearfar.download.redact import without_parameters
from nearfar.download.store.errors import StoreError
from nearfar.readable import hidden

LIMIT = 255
"""Bytes; what ext4, XFS, Btrfs, APFS and NTFS allow for one name."""
OWN = ".nearfar"
"""How the store's own files begin: the manifest, the temporaries. `clean` never returns such a name."""
INDEX = "index"
"""The name of a file whose URL has none."""

_EXTENSION = 24
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ ()+,=@~-]*(\.[A-Za-z0-9_-]+)*", re.ASCII)
_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]')
_EDGES = re.compile(r"^[\s.]+|[\s.]+$")
_DEVICE = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL
)
_DEVICES = frozenset("cpanlCPANL")
"""Their first letters."""
_DRIVE = re.compile(r"\s*[A-Za-z]:")
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*([^?#]*)")


def wanted(job: Job, head: Head) -> tuple[str, ...]:
    """The parts of the path to save `job` under, below the directory, before collisions are looked at.

    The user's name if there is one, else the server's suggestion, else the last segment of the final
    URL's path, else ``index``. Only a user's name may have sub-directories.

    Raises `StoreError` (refused) for a user's name that would leave the directory.
    """
    if job.name is not None:
        return asked(job.name)
    suggested = _last(head.suggested) if head.suggested else ""
    return (suggested or _last(_segment(head.url)) or INDEX,)


def asked(name: str) -> tuple[str, ...]:
    """The parts of a name that the user chose; both kinds of slashes separate.

    Raises `StoreError` (refused) if it is empty, absolute, names a drive, or climbs with ``..``. Bending
    such a name would put a file where its author did not ask for it.
    """
    parts = re.split(r"[/\\]", name)
    if not parts[0] or _DRIVE.match(name) or ".." in parts:
        raise StoreError(Reason.REFUSED, f"the name {name!a} leads out of the directory, or is empty")
    kept = tuple(clean(part) for part in parts if part not in ("", "."))
    if not kept or not all(kept) or parts[-1] in ("", "."):
        raise StoreError(Reason.REFUSED, f"the name {name!a} names no file")
    return kept


def clean(text: str) -> str:
    """`text` as one safe name, or ``""`` if nothing is left of it. Cleaning twice changes nothing more."""
    if (
        len(text) <= LIMIT
        and _PLAIN.fullmatch(text)
        and not text.endswith(" ")
        and not (text[0] in _DEVICES and _DEVICE.fullmatch(text))
    ):
        return text
    name = _FORBIDDEN.sub("_", unicodedata.normalize("NFC", text))
    if not name.isascii():
        name = "".join("_" if hidden(char) else char for char in name)
    name = _strip(name)
    if _DEVICE.fullmatch(name):
        name = f"_{name}"
    return shorten(name)


def shorten(name: str, tag: str = "") -> str:
    """`name` with `tag` before its extension, within `LIMIT` bytes.

    A name that is cut gets a tag of its own hash, so that two long names with one beginning stay two.
    """
    stem, extension = _split(name)
    whole = f"{stem}{tag}{extension}"
    if len(whole.encode()) <= LIMIT:
        return whole
    tag = tag or f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    room = LIMIT - len(tag) - len(extension.encode())
    return f"{_strip(stem.encode()[:room].decode(errors='ignore'))}{tag}{extension}"


def candidates(parts: tuple[str, ...], key: str) -> Iterator[tuple[str, ...]]:
    """The paths to try for a file when others bear its name: its own, then with more and more of `key`.

    `key` is the hash of its URL, so the same URL finds the same names again.
    """
    yield parts
    for length in (8, 16, 64):
        yield (*parts[:-1], shorten(parts[-1], f"-{key[:length]}"))


def fold(name: str) -> str:
    """What two names share that a case-insensitive or normalising file system takes for one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _segment(url: str) -> str:
    """The last segment of the path, percent-decoded, without secrets; one that is not UTF-8 stays encoded."""
    found = _PATH.match(url)
    raw = found[1].rpartition("/")[2] if found else ""
    if ";" in raw:
        raw = without_parameters(raw)
    try:
        return unquote_to_bytes(raw).decode() if "%" in raw else raw
    except UnicodeError:
        return raw


def _last(text: str) -> str:
    """The safe name in a suggestion: what follows the last slash of either kind."""
    if "\\" in text:
        text = text.replace("\\", "/")
    return clean(text.rpartition("/")[2])


def _strip(name: str) -> str:
    return _EDGES.sub("", name)


def _split(name: str) -> tuple[str, str]:
    """Stem and extension with its dot; something too long to be an extension belongs to the stem."""
    stem, dot, extension = name.rpartition(".")
    if not stem or not extension or len(extension.encode()) > _EXTENSION:
        return name, ""
    return stem, dot + extension
