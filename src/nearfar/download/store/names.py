"""File names that are safe on every common system, derived from what users, servers and URLs suggest.

Also the media type that a name implies. Pure. A name made here has no separator, control, format or surrogate
character, none that Windows forbids (so the directory can be copied anywhere), no leading dot (reserved for
the store's own files, see `OWN`), no trailing dot or space, is no device name, is in Unicode NFC and takes at
most `LIMIT` bytes of UTF-8.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from urllib.parse import unquote_to_bytes

from nearfar.download.model import Head, Job, Reason, StoreError
from nearfar.download.patterns import compile_lazily
from nearfar.download.redact import without_parameters
from nearfar.readable import hidden

LIMIT = 255
"""Bytes: the limit of ext4, XFS, Btrfs, APFS and NTFS for one name."""
OWN = ".nearfar"
"""Prefix of the store's own files: the manifest, the temporaries. `clean` never returns such a name."""
INDEX = "index"
"""The name of a file whose URL has no last segment."""

_LONGEST_EXTENSION = 24
_PLAIN = compile_lazily(r"[A-Za-z0-9_][A-Za-z0-9_ ()+,=@~-]*(\.[A-Za-z0-9_-]+)*", re.ASCII)
_FORBIDDEN = compile_lazily(r'[\x00-\x1f\x7f-\x9f<>:"/\\|?*]')
_EDGES = compile_lazily(r"^[\s.]+|[\s.]+$")
_DEVICE = compile_lazily(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE | re.DOTALL
)
_DEVICES = frozenset("cpanlCPANL")
"""First letters of the device names."""
_SIMPLE = compile_lazily(r"[BD-KMOQ-Zbd-kmoq-z0-9_][A-Za-z0-9_-]{0,100}(\.[A-Za-z0-9_-]{1,20}){0,4}")
"""Names that `clean` leaves unchanged; no device name begins so."""
_DRIVE = compile_lazily(r"\s*[A-Za-z]:")
_PATH = compile_lazily(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*([^?#]*)")


def wanted(job: Job, head: Head) -> tuple[str, ...]:
    """The parts of the path to save `job` under, relative to the directory, before collisions are resolved.

    The user's name if there is one, else the server's suggestion, else the last segment of the final
    URL's path, else ``index``. Only a user's name may have sub-directories.

    Raises `StoreError` (rejected) for a user's name that would leave the directory.
    """
    if job.name is not None:
        return asked(job.name)
    last = head.url.rpartition("/")[2]
    if not head.suggested and _SIMPLE.fullmatch(last) and "?" not in head.url and head.url.count("/") > 2:
        return (last,)
    suggested = _last(head.suggested) if head.suggested else ""
    return (suggested or _last(_segment(head.url)) or INDEX,)


def asked(name: str) -> tuple[str, ...]:
    """The parts of a name that the user chose; both kinds of slashes separate.

    Raises `StoreError` (rejected) if it is empty, absolute, names a drive, or contains ``..``. Changing such
    a name would put the file in a place that the user did not name.
    """
    parts = re.split(r"[/\\]", name)
    if not parts[0] or _DRIVE.match(name) or ".." in parts:
        raise StoreError(Reason.REJECTED, f"the name {name!a} leads out of the directory, or is empty")
    kept = tuple(clean(part) for part in parts if part not in ("", "."))
    if not kept or not all(kept) or parts[-1] in ("", "."):
        raise StoreError(Reason.REJECTED, f"the name {name!a} names no file")
    return kept


def clean(text: str) -> str:
    """`text` as one safe name, or ``""`` if nothing is left of it. Idempotent."""
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

    A shortened name gets a tag of its own hash, so that two long names with the same beginning stay distinct.
    """
    stem, extension = _split(name)
    whole = f"{stem}{tag}{extension}"
    if len(whole.encode()) <= LIMIT:
        return whole
    tag = tag or f"-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    room = LIMIT - len(tag) - len(extension.encode())
    return f"{_strip(stem.encode()[:room].decode(errors='ignore'))}{tag}{extension}"


def candidates(parts: tuple[str, ...], key: str) -> Iterator[tuple[str, ...]]:
    """The paths to try when others have the name: the name itself, then with more and more of `key`.

    `key` is the hash of its URL, so the same URL yields the same names.
    """
    yield parts
    for length in (8, 16, 64):
        yield (*parts[:-1], shorten(parts[-1], f"-{key[:length]}"))


def fold(name: str) -> str:
    """A key that is equal for names that a case-insensitive or normalising file system treats as one."""
    if name.isascii():
        return name.lower()
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


def _segment(url: str) -> str:
    """The last segment of the path, percent-decoded, without secrets; left encoded if it is not UTF-8."""
    found = _PATH.match(url)
    raw = found[1].rpartition("/")[2] if found else ""
    if ";" in raw:
        raw = without_parameters(raw)
    try:
        return unquote_to_bytes(raw).decode() if "%" in raw else raw
    except UnicodeError:
        return raw


def _last(text: str) -> str:
    """The safe name in a suggestion: the text after the last slash of either kind."""
    if "\\" in text:
        text = text.replace("\\", "/")
    return clean(text.rpartition("/")[2])


def _strip(name: str) -> str:
    return _EDGES.sub("", name)


def _split(name: str) -> tuple[str, str]:
    """Stem and extension with its dot; an overlong extension belongs to the stem."""
    stem, dot, extension = name.rpartition(".")
    if not stem or not extension or len(extension.encode()) > _LONGEST_EXTENSION:
        return name, ""
    return stem, dot + extension


HTML = frozenset({"text/html", "application/xhtml+xml"})
GENERIC = frozenset(
    {
        "",
        "*/*",
        "application/binary",
        "application/download",
        "application/force-download",
        "application/octet-stream",
        "application/unknown",
        "application/x-download",
        "application/x-octet-stream",
        "binary/octet-stream",
        "unknown/unknown",
    }
)
"""Generic media types: for these, the first bytes decide."""
LOOK = 512
"""Bytes from which a type is detected."""

_PROMISES = {
    "image/*": "apng avif bmp gif heic heif ico jpe jpeg jpg png svg tif tiff webp",
    "video/*": "avi m4v mkv mov mp4 mpeg mpg webm wmv",
    "audio/*": "aac flac m4a mp3 oga ogg opus wav",
    "application/pdf": "pdf",
    "application/*": "7z apk bin bz2 deb dmg docx epub exe gz iso jar json lz4 msi pptx rar rpm tar tbz tgz"
    " txz whl xlsx xz zip zst",
    "text/csv": "csv tsv",
}
_PROMISED = {extension: kind for kind, names in _PROMISES.items() for extension in names.split()}
_SUFFIX = compile_lazily(r"\.([A-Za-z0-9]{1,5})\Z")

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"\0\0\1\0", "image/x-icon"),
    (b"%PDF-", "application/pdf"),
    (b"PK\3\4", "application/zip"),
    (b"PK\5\6", "application/zip"),
    (b"\x1f\x8b", "application/gzip"),
    (b"BZh", "application/x-bzip2"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"Rar!\x1a\7", "application/vnd.rar"),
    (b"\x7fELF", "application/x-executable"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_BOM = b"\xef\xbb\xbf"
_RIFF = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}
_BRANDS = {b"avif": "image/avif", b"avis": "image/avif", b"heic": "image/heic", b"heix": "image/heic"}
_BRANDS |= {b"mif1": "image/heif", b"M4A ": "audio/mp4"}
_PAGE = compile_lazily(
    rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|title|script|meta)\b", re.I | re.S
)
_VECTOR = compile_lazily(rb"\s*(<\?xml[^>]*>\s*)?((<!--.*?-->|<!doctype\s+svg[^>]*>)\s*)*<svg\b", re.I | re.S)


def kind_of(data: bytes) -> str | None:
    """The media type that a file's first bytes show; None if they show none."""
    data = data[:LOOK]
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12])
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "video/mp4")
    if looks_like_page(data):
        return "text/html"
    return "image/svg+xml" if _VECTOR.match(data.removeprefix(_BOM)) else None


def matches(kind: str | None, patterns: Sequence[str]) -> bool:
    """True if a media type is one of `patterns`: ``image/png``, ``image/*``, ``image``."""
    wanted = (each.lower() if "/" in each else f"{each.lower()}/*" for each in patterns)
    return any(fnmatchcase(kind or "", each) for each in wanted)


def promised(path: str) -> str | None:
    """The pattern of media types that the extension of a file name, or of a URL's path, implies."""
    found = _SUFFIX.search(path)
    return _PROMISED.get(found[1].lower()) if found else None


def looks_like_page(data: bytes) -> bool:
    """True if the first bytes are those of a web page."""
    start = data[:LOOK].removeprefix(_BOM)
    return start.lstrip()[:1] == b"<" and _PAGE.match(start) is not None


def is_page(kind: str | None) -> bool:
    """True for the media type of a web page, which servers send in place of a file that they refuse."""
    return kind in HTML
