"""What a file is: by its name, by its media type, by its first bytes. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

__all__ = ["GENERIC", "HTML", "LOOK", "is_page", "kind_of", "looks_like_page", "matches", "promised"]

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
"""Media types that tell nothing: there, the first bytes decide."""
LOOK = 512
"""Bytes from which a kind is told."""

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
_EXTENSION = re.compile(r"\.([A-Za-z0-9]{1,5})\Z")

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
_PAGE = re.compile(rb"\s*(<!--.*?-->\s*)*<(!doctype\s+html|html|head|body|title|script|meta)\b", re.I | re.S)
_VECTOR = re.compile(rb"\s*(<\?xml[^>]*>\s*)?((<!--.*?-->|<!doctype\s+svg[^>]*>)\s*)*<svg\b", re.I | re.S)


def kind_of(data: bytes) -> str | None:
    """The media type that the first bytes of a file show; None if they show none."""
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
    """The pattern of media types that a file's name, or the path of a URL, promises by its extension."""
    found = _EXTENSION.search(path)
    return _PROMISED.get(found[1].lower()) if found else None


def looks_like_page(data: bytes) -> bool:
    """True if the first bytes are those of a web page."""
    return b"<" in data[:LOOK] and _PAGE.match(data[:LOOK].removeprefix(_BOM)) is not None


def is_page(kind: str | None) -> bool:
    """True for the media type of a web page: what servers send in place of a file that they do not give."""
    return kind in HTML
