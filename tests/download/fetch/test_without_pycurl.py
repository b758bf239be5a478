"""Without the extra, the user is told what to install."""

from __future__ import annotations

import importlib
import sys

import pytest


def test_a_missing_pycurl_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycurl", None)
    for name in ("curl", "curl_handle"):
        monkeypatch.delitem(sys.modules, f"nearfar.download.fetch.{name}", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'nearfar\[download\]'"):
        importlib.import_module("nearfar.download.fetch.curl")
