"""Which parts of a URL may be written to logs, screens, the manifest and its exports.

Secret are, and replaced by ``***``:

* user name and password, and the fragment, which the manifest does not store at all;
* the value of a parameter, of the query or of the path (``;jsessionid=...``), whose name is listed (`WORDS`,
  `PARTS`: ``access_token``, ``X-Amz-Signature``, ``sig``, ``key``, ``password``, ...);
* a value that looks random, whatever its name: 32 or more hexadecimal digits, or 20 or more letters
  and digits with frequent changes between upper case, lower case and digits;
* a value that contains a URL, or a list of parameters, with a secret in it.

The rest is shown, since ``id=17`` identifies the file for a reader. A secret in a path segment is not
recognised. Whole URLs are in memory, on the queue, and in the failures file, which serves as input again and
is readable by its owner only.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import unquote

from nearfar.download.patterns import compile_lazily
from nearfar.download.urls import one_line
from nearfar.readable import percent

MASK = "***"
WORDS = compile_lazily(
    r"ak|auth|credentials?|hdnea|hdnts|hm|hmac|jwt|key|mac|nonce|oauth|otp|pass|passphrase|passwd|password|pin|"
    r"policy|psk|pw|pwd|secret|session|sessid|sid|sig|sign|signature|sk|ticket|tok|token",
    re.IGNORECASE,
)
"""A parameter with one of these words in its name is secret; ``_-.`` and camelCase separate words."""
PARTS = compile_lazily(
    r"apikey|accesskey|authkey|authoriz|bearer|cookie|credential|jsessionid|keyid|oauth|passw|phpsessid|"
    r"secret|sessionid|signature|token|x-amz-|x-goog-|x-oss-|^md5$",
    re.IGNORECASE,
)
"""A parameter is also secret if its name contains one of these."""

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
"""A URL without these characters has no secret that is recognised."""
_LIST = compile_lazily(r"[&;?~,\s]")
_NESTED = 3


def redact_url(text: str) -> str:
    """`text` for a log: secrets masked, one printable line of at most 300 characters.

    Never raises, so it also accepts text that `parse_url` refuses; there, everything before an ``@`` or after
    a ``?`` counts as secret.
    """
    if not _WELL_FORMED.fullmatch(text):
        text = _AFTER_MARK.sub(f"?{MASK}", _BEFORE_AT.sub(rf"\1{MASK}@", text))
    return one_line(_redact(text, _NESTED))


@lru_cache(maxsize=2048)
def written(url: str) -> str:
    """`url` as stored in the manifest: a URL of printable characters, with secrets masked."""
    if not url.isascii():
        url = url.encode(errors="replace").decode()
    if not url.isprintable():
        url = percent(url)
    if not _ANY.search(url):
        return url
    return _redact(_OWN_USERINFO.sub(r"\1", url) if "@" in url else url, _NESTED)


def identity(url: str) -> str:
    """The part of `url` that identifies the resource: all but passwords, which people choose and change.

    Its hash can be attacked with guesses. The secrets that stay in it are random, or short ones in parameters
    whose names do not show whether they select the file (``key=1.jpg``).
    """
    return _PASSWORD.sub(lambda found: found[2] or f"{found[1]}@", url)


def without_parameters(segment: str) -> str:
    """A path segment without secret parameters, from which a file name can be made."""
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
    """Redact the text between two ``&``, or two slashes: parameters that may be separated by semicolons.

    All text after a masked parameter is masked: it may belong to its value.
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
    # A value that is nested too deep is masked as a whole.
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
