"""The package keeps the rules on imports and file sizes; and the checker detects violations."""

from __future__ import annotations

from pathlib import Path

import pytest

import nearfar
from tests.support.house import LONGEST, complaints, modules

pytestmark = pytest.mark.pure

HOUSE = dict.fromkeys(("nearfar", "errors", "net", "net.validation", "queues", "queues.base", "download"), "")


def test_the_package_keeps_the_rules() -> None:
    root = Path(nearfar.__file__).parent
    assert complaints(modules(root)) == []


def test_modules_without_imports_have_no_complaints() -> None:
    assert complaints(HOUSE) == []


@pytest.mark.parametrize(
    ("name", "source", "complaint"),
    [
        (
            "net.validation",
            "from nearfar.queues import base",
            "net.validation imports queues.base, from a layer above",
        ),
        ("queues.base", "def f():\n    import nearfar.download", "imports download, from a layer above"),
        ("net", "from nearfar import Queue", "net imports nearfar, from a layer above"),
        ("queues.base", "import pickle", "queues.base imports pickle"),
        ("download", "import zmq.auth", "download imports zmq"),
        ("contrast.workloads", "import zmq", "contrast.workloads imports zmq"),
        ("download.fetch.many", "from pycurl import Curl", "download.fetch.many imports pycurl"),
        (
            "queues.broker.ledger",
            "from time import monotonic",
            "queues.broker.ledger decides and must not act",
        ),
        ("net.validation", "from . import reliable", "net.validation imports ..reliable relatively"),
        ("attic.box", "", "attic.box stands in no layer"),
        ("errors", "\n" * (LONGEST + 1), "errors has 801 lines, more than 800"),
    ],
)
def test_a_breach_is_named(name: str, source: str, complaint: str) -> None:
    found = complaints(HOUSE | {name: source})
    assert len(found) == 1
    assert complaint in found[0]


def test_a_cycle_of_imports_is_named() -> None:
    ring = {"net.a": "import nearfar.net.b", "net.b": "from nearfar.net.a import x"}
    assert complaints(HOUSE | ring) == ["net.a -> net.b -> net.a is a ring of imports"]


def test_what_a_layer_may_do_is_no_breach() -> None:
    allowed = {
        "serialization.pickles.pickler": "import pickle\nfrom nearfar.errors import ItemError",
        "download.fetch.curl": "import pycurl\nfrom nearfar import Queue",
        "queues.broker.server": "import time, zmq",
        "contrast.transports": "import zmq",
        "__main__": "from nearfar import __version__",
    }
    assert complaints(HOUSE | allowed) == []
