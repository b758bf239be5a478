"""What of a URL may be written down: in logs, on screens, in the manifest and its exports.

Secret are, and ``***`` stands in their place:

* user name and password, and the fragment, which the manifest is not told at all;
* the value of a parameter, of the query or of the path (``;jsessionid=...``), whose name says so (`WORDS`,
  `PARTS`: ``access_token``, ``X-Amz-Signature``, ``sig``, ``key``, ``password``, ...);
* a value that looks drawn by lot, whatever its name: 32 or more hexadecimal digits, or 20 or more letters
  and digits in lively change of upper case, lower case and digits;
* a value that holds a URL, or a list of parameters, with a secret in it.

The rest is told, for ``id=17`` is how a reader knows the file. A secret among the segments of the path is not
known as one. Whole URLs are in memory, on the queue, and in the failures file, which must feed them back and
is its owner's alone.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from nearfar.download.patterns import compile_lazily
from nearfar.download.urls import one_line
from nearfar.readable import percent

__all__ = ["identity", "redact_url", "without_parameters", "written"]

MASK = "***"
WORDS = compile_lazily(
    r"ak|auth|credentials?|hdnea|hdnts|hm|hmac|jwt|key|mac|nonce|oauth|otp|pass|passphrase|passwd|password|pin|"
    r"policy|psk|pw|pwd|secret|session|sessid|sid|sig|sign|signature|sk|ticket|tok|token",
    re.IGNORECASE,
)
"""A parameter with one of these in its name is secret; ``_``, ``-``, ``.`` and camelCase part words."""
PARTS = compile_lazily(
    r"apikey|accesskey|authkey|authoriz|bearer|cookie|credential|jsessionid|keyid|oauth|passw|phpsessid|"
    r"secret|sessionid|signature|token|x-amz-|x-goog-|x-oss-|^md5$",
    re.IGNORECASE,
)
"""And one with one of these anywhere in it."""

_WORD = compile_lazily(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_HEX = compile_lazily(r"(?<![0-9A-Za-z])[0-9A-Fa-f]{32,}(?![0-9A-Za-z])")
_RUN = compile_lazily(r"[A-Za-z0-9_+/=-]{20,}")
_CHANGE = compile_lazily(r"(?<=[a-z])[A-Z0-9]|(?<=[A-Z])[0-9]|(?<=[0-9])[A-Za-z]|(?<=[A-Z])[a-z]")
_LIVELY = 6
_USERINFO = compile_lazily(r"(?<=//)[^/?#]*@")
_OWN_USERINFO = compile_lazily(r"^([a-z][a-z0-9+.-]*://)[^/?#]*@", re.IGNORECASE)
_BEFORE_AT = compile_lazily(r"^([a-z][a-z0-9+.-]*:/*)?.*@", re.IGNORECASE | re.DOTALL)
_AFTER_MARK = compile_lazily(r"\?.+", re.DOTALL)
_PASSWORD = compile_lazily(
    r"(?<=://)([^/?#:@]*):[^/?#]*@|(?<=[?&;])((?:passphrase|passwd|password|pwd|pw)=)[^&;#]*", re.IGNORECASE
)
_WELL_FORMED = compile_lazily(
    r"https?://([^/?#\\]*@)?(\[[0-9a-f:.]+\]|[^/?#@:\[\]]+)(:\d*)?([/?#].*)?", re.IGNORECASE | re.DOTALL
)
_ANY = compile_lazily(r"[@?#;]")
"""No secret is known without one of these."""
_LIST = compile_lazily(r"[&;?~,\s]")
_NESTED = 3


def redact_url(text: str) -> str:
    """`text` fit for a log: what is secret masked, one printable line of at most 300 characters.

    Never raises, so it serves for what `parse_url` refuses as well; there, all that stands before an ``@``
    or behind a ``?`` is taken for a secret.
    """
    if not _WELL_FORMED.fullmatch(text):
        text = _AFTER_MARK.sub(f"?{MASK}", _BEFORE_AT.sub(rf"\1{MASK}@", text))
    return one_line(_redact(text, _NESTED))


@lru_cache(maxsize=2048)
def written(url: str) -> str:
    """`url` as the manifest has it: a URL still, but for what is secret, of characters that can be shown."""
    if not url.isascii():
        url = url.encode(errors="replace").decode()
    if not url.isprintable():
        url = percent(url)
    if not _ANY.search(url):
        return url
    return _redact(_OWN_USERINFO.sub(r"\1", url) if "@" in url else url, _NESTED)


def identity(url: str) -> str:
    """What makes `url` the same as before: all of it but passwords, which people choose, and change.

    For its hash can be tried against guesses. The secrets that stay in it are drawn by lot, or short ones in
    parameters whose names do not tell whether they choose the file (``key=1.jpg``).
    """
    return _PASSWORD.sub(lambda found: found[2] or f"{found[1]}@", url)


def without_parameters(segment: str) -> str:
    """A segment of a path without parameters that are secret: what a file may be called after."""
    name, *parameters = segment.split(";")
    return ";".join([name, *(each for each in parameters if _masked(each, _NESTED) == each)])


def _redact(text: str, depth: int) -> str:
    text, _, _ = text.partition("#")
    if "@" in text:
        text = _USERINFO.sub(f"{MASK}@", text)
    path, mark, query = text.partition("?")
    if ";" in path:
        parts = (segment.partition(";") for segment in path.split("/"))
        path = "/".join(name + semicolon + _group(rest, depth) for name, semicolon, rest in parts)
    return path + mark + "&".join(_group(each, depth) for each in query.split("&"))


def _group(text: str, depth: int) -> str:
    """What stands between two ``&``, or two slashes: parameters that semicolons may part, or be part of.

    Behind one that is masked nothing is told: it may be the rest of it.
    """
    told: list[str] = []
    for each in text.split(";"):
        told.append(_masked(each, depth))
        if told[-1] != each:
            break
    return ";".join(told)


def _masked(parameter: str, depth: int) -> str:
    """``name=value``, or a bare value, with the value masked if it is secret."""
    name, equals, value = parameter.partition("=")
    plain = _plain(name)
    drawn = _looks_drawn(plain)
    if drawn or (equals and (_names_secret(plain) or _is_secret(_plain(value), depth))):
        return f"{MASK if drawn else name}{equals and f'={MASK}'}"
    return parameter


def _plain(text: str) -> str:
    return unquote(text) if "%" in text else text


def _is_secret(value: str, depth: int) -> bool:
    if _looks_drawn(value):
        return True
    if "://" not in value and "=" not in value:
        return False
    # What is nested deeper than anybody nests is hidden whole.
    return (
        depth == 0
        or _redact(value, depth - 1) != value
        or any(_masked(each, depth - 1) != each for each in _LIST.split(value) if "=" in each)
    )


@lru_cache(maxsize=1024)
def _names_secret(name: str) -> bool:
    return bool(PARTS.search(name)) or any(map(WORDS.fullmatch, _WORD.findall(name)))


def _looks_drawn(value: str) -> bool:
    if len(value) < 20:
        return False
    return bool(_HEX.search(value)) or any(
        len(_CHANGE.findall(run)) >= _LIVELY
        and any(c.islower() for c in run)
        and any(c.isupper() for c in run)
        and any(c.isdigit() for c in run)
        for run in _RUN.findall(value)
    )
