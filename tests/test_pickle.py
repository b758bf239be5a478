"""Only one package reads pickles, and each of its uses has a reason why the bytes are from a trusted peer.

The test reads the syntax trees of the package and of the services: every use of pickle in them must be in
this list, and every entry of the list must be in them.
"""

from __future__ import annotations

from pathlib import Path

import nearfar
from tests.support.house import imports
from tests.support.pickles_read import PACKAGE, places, reads, sources

SOURCE = Path(nearfar.__file__).parent
SERVICES = Path(__file__).parents[1] / "services"

CHILD = "a child of ours at the other end: the pipe has no name, and is only inherited"
PARENT = "the parent that started this process at the other end: the pipe has no name, and is only inherited"
TYPE = "only the type of a pipe, for annotations; see who reads it"
STARTS = "starts children of ours: they read what their parent hands them at their start"
SAID = (
    "only where this side's own access says so (its user's processes, or let in by key), and the host's does"
)

TRUSTED = {
    # what reads our own pickles
    ("nearfar.worker.codec", "nearfar.serialization.pickles.calls.CallLoader"): (
        "calls of a client that its coordinator let in; and never where the worker is plain"
    ),
    ("nearfar.pool.call", "nearfar.serialization.pickles.results.load_result"): (
        "answers of our workers, or of the coordinator that the program connected to; never to a plain call"
    ),
    (
        "nearfar.pool.codec",
        "nearfar.serialization.pickles.results.load_error",
    ): "errors from the same workers as answers",
    ("nearfar.queues.near", "nearfar.serialization.pickles.pickler.loads"): (
        "items of a near queue: a child, parent or sibling that inherited its pipe"
    ),
    (
        "nearfar.serialization.item_codec",
        "nearfar.serialization.pickles.pickler.loads",
    ): "only where the caller of decode says trusted",
    ("nearfar.queues.client.deliveries", "nearfar.serialization.item_codec.decode"): SAID,
    ("nearfar.queues.far", "nearfar.serialization.item_codec.decode"): f"dead letters; {SAID}",
    ("nearfar.queues.redis.queue", "nearfar.serialization.item_codec.decode"): (
        "trusted only with keys, after the item's signature by an accepted key was verified"
    ),
    # the standard's own pipes
    ("nearfar.download.local", ".recv()"): CHILD,
    ("nearfar.download.local_process", ".recv()"): PARENT,
    ("nearfar.download.local", ".Pipe()"): CHILD,
    ("nearfar.download.local", ".Process()"): STARTS,
    ("nearfar.download.local", "multiprocessing.get_context"): STARTS,
    ("nearfar.download.local", "multiprocessing.connection.Connection"): TYPE,
    ("nearfar.download.local_process", "multiprocessing.connection.Connection"): TYPE,
    ("nearfar.download.near_transport", "multiprocessing.connection.Connection"): TYPE,
    ("nearfar.download.near_transport", "multiprocessing.reduction.DupFd"): (
        "hands the descriptor of shared memory to a child of ours at its start"
    ),
    ("nearfar.queues.near", "multiprocessing.queues"): CHILD,
    ("nearfar.queues.near", "multiprocessing.queues.JoinableQueue"): "its counting; its get is overridden",
    ("nearfar.queues.pipe", "multiprocessing.queues"): CHILD,
    ("nearfar.queues.pipe", "multiprocessing.queues.Queue"): "its pipe and locks; its get is overridden",
    ("nearfar.queues.pipe", "multiprocessing.get_context"): "makes semaphores",
    ("nearfar.queues.pipe", "multiprocessing.connection.Connection"): TYPE,
    ("nearfar.pool.dask_executor", ".Client()"): (
        "Dask's own client: the program chose that cluster, which reads and sends pickles (docs/engines.md)"
    ),
    # the contrast: what is compared is the standard's, between a measurement and its children
    ("nearfar.net.sockets", ".recv()"): "ZeroMQ's own, which gives bytes",
    ("nearfar.contrast.faults", ".recv()"): "a parent or a child of ours at the other end of a pipe",
    ("nearfar.contrast.faults", "multiprocessing.connection.Connection"): TYPE,
    ("nearfar.contrast.pools", "concurrent.futures.ProcessPoolExecutor"): CHILD,
    ("nearfar.contrast.processes", "multiprocessing.get_context"): STARTS,
    ("nearfar.contrast.processes", ".Process()"): STARTS,
    ("nearfar.contrast.transports", ".recv()"): f"{CHILD}; and ZeroMQ's own, which gives bytes",
    ("nearfar.contrast.transports", "multiprocessing.connection.Connection"): TYPE,
    ("nearfar.contrast.workloads", ".recv()"): CHILD,
    ("nearfar.contrast.workloads", "multiprocessing.connection.Connection"): TYPE,
    # worker processes
    ("nearfar.worker.handle", ".Process()"): STARTS,
    ("nearfar.worker.supervisor", "multiprocessing.get_context"): STARTS,
    ("nearfar.pool.executor", "multiprocessing.get_context"): STARTS,
    ("nearfar.errors", "concurrent.futures.process.BrokenProcessPool"): "only the type of an error",
    ("nearfar.pool.executor", "concurrent.futures.process._RemoteTraceback"): "only the type of an error",
    ("nearfar.pool.near_engine", "multiprocessing.get_context"): STARTS,
    ("nearfar.pool.limited_calls", "multiprocessing.get_context"): STARTS,
    ("nearfar.cli.options", "multiprocessing.get_context"): STARTS,
    ("nearfar.cli.options", "multiprocessing.forkserver"): STARTS,
    ("nearfar.cli.options", "multiprocessing.forkserver.set_forkserver_preload"): "names modules of ours",
    ("nearfar.cli.producer", "multiprocessing.get_context"): STARTS,
    # modules by a name in a text
    (
        "nearfar.serialization.names",
        "'cloudpickle'",
    ): "asks which modules the program sends by value; reads nothing",
    ("nearfar", "import_module()"): "the home of one of the public names that it lists",
    ("nearfar.cli", "import_module()"): "one of the programs that it lists",
    ("nearfar.net.schemes", "import_module()"): "the home of one of the transports that it lists",
    ("nearfar.__main__", "import_module()"): "one of the programs that it lists",
    ("nearfar.serialization.names", "import_module()"): (
        "a module that a trusted client named, or that the operator of a plain worker allowed"
    ),
}
"""Module and what it does, and why what is read there comes from a peer that is trusted."""


def house() -> dict[str, str]:
    return sources(SOURCE, "nearfar") | sources(SERVICES, "services")


def test_every_use_of_pickle_is_in_the_list() -> None:
    found = places(house())
    assert found - TRUSTED.keys() == set(), "say in the list why these bytes come from a trusted peer"
    assert TRUSTED.keys() - found == set(), "these do not read pickles any more"


def test_the_plain_modules_do_not_import_the_package_that_reads_pickles() -> None:
    plain = {
        name: source for name, source in house().items() if name.startswith("nearfar.serialization.plain")
    }
    assert plain
    for name, source in plain.items():
        assert not [each for each in imports(source) if each.startswith(PACKAGE)], name
        assert reads(source) == set(), name


WAYS = [
    ("import pickle", "pickle"),
    ("import pickle as p\np.loads(b'')", "pickle.loads"),
    ("from pickle import loads", "pickle.loads"),
    ("from pickle import *", "pickle.*"),
    ("from pickle import Unpickler as U", "pickle.Unpickler"),
    ("import _pickle", "_pickle"),
    ("try:\n    import cPickle\nexcept ImportError: pass", "cPickle"),
    ("import cloudpickle", "cloudpickle"),
    ("def f():\n    import dill", "dill"),
    ("import marshal", "marshal"),
    ("import shelve", "shelve"),
    ("import joblib", "joblib"),
    ("import copyreg", "copyreg"),
    ("import torch\ntorch.load(f)", "torch.load"),
    ("import numpy as np\nnp.load(f, allow_pickle=True)", "load(allow_pickle)"),
    ("import numpy as np\nnp.load(f)", "numpy.load"),
    ("import pandas as pd\npd.read_pickle(f)", "pandas.read_pickle"),
    ("frame.read_pickle(f)", ".read_pickle()"),
    ("import logging.config\nlogging.config.listen()", "logging.config.listen"),
    ("from logging import config", "logging.config"),
    ("import multiprocessing.reduction", "multiprocessing.reduction"),
    (
        "from multiprocessing.reduction import ForkingPickler\nForkingPickler.loads(b'')",
        "multiprocessing.reduction.ForkingPickler.loads",
    ),
    (
        "import multiprocessing.reduction\nmultiprocessing.reduction.ForkingPickler",
        "multiprocessing.reduction",
    ),
    (
        "from multiprocessing import reduction as r\nr.ForkingPickler",
        "multiprocessing.reduction.ForkingPickler",
    ),
    ("from multiprocessing import connection", "multiprocessing.connection"),
    ("from multiprocessing.connection import Listener", "multiprocessing.connection.Listener"),
    ("from multiprocessing.connection import Client", "multiprocessing.connection.Client"),
    ("import multiprocessing\nmultiprocessing.Queue()", "multiprocessing.Queue"),
    ("import multiprocessing as mp\nmp.Pipe()", "multiprocessing.Pipe"),
    ("import multiprocessing as mp\nmp.SimpleQueue()", "multiprocessing.SimpleQueue"),
    ("from multiprocessing import Manager", "multiprocessing.Manager"),
    ("from concurrent.futures import ProcessPoolExecutor", "concurrent.futures.ProcessPoolExecutor"),
    ("context.Pipe()", ".Pipe()"),
    ("self._context.Queue()", ".Queue()"),
    ("pipe.recv()", ".recv()"),
    ("read = pipe.recv", ".recv()"),
    ("list(map(f, iter(pipe.recv, None)))", ".recv()"),
    ("socket.recv_pyobj()", ".recv_pyobj()"),
    ("import importlib\nimportlib.import_module('pickle')", "'pickle'"),
    ("from importlib import import_module\nimport_module(name)", "import_module()"),
    ("__import__(name)", "__import__()"),
    ("import sys\nsys.modules['_pickle'].loads", "'_pickle'"),
    ("exec('import ' + name)", "exec()"),
    ("eval(text)", "eval()"),
    ("import runpy\nrunpy.run_path(path)", "run_path()"),
    (
        "from nearfar.serialization.pickles import pickler as pickles\npickles.loads(b'')",
        "nearfar.serialization.pickles.pickler.loads",
    ),
    (
        "from nearfar.serialization.pickles.pickler import loads",
        "nearfar.serialization.pickles.pickler.loads",
    ),
    ("from nearfar.serialization.pickles import pickler as pickles\ngetattr(pickles, name)", "getattr()"),
    (
        "import nearfar.serialization.pickles as p\np.results.load_result(b'')",
        "nearfar.serialization.pickles.results.load_result",
    ),
    (
        "from nearfar.serialization import item_codec as codec\ncodec.decode(b, 1, trusted=sure)",
        "nearfar.serialization.item_codec.decode",
    ),
    (
        "from nearfar.serialization import item_codec as codec\ncodec.decode(b, 1, trusted=True)",
        "nearfar.serialization.item_codec.decode",
    ),
    (
        "from nearfar.serialization import item_codec as codec\nread = codec.decode",
        "nearfar.serialization.item_codec.decode",
    ),
]
"""Programs that read pickles, and by what each does."""


def test_every_way_to_read_a_pickle_is_detected() -> None:
    for source, what in WAYS:
        assert what in reads(source)
        assert ("nearfar.attic", what) in places({"nearfar.attic": source})
        assert ("services.attic", what) in places({"services.attic": source})
        assert places({"nearfar.serialization.pickles.pickler.attic": source}) == set()


HARMLESS = [
    "line.recv(4096)",
    "import zmq\nmade.recv(zmq.NOBLOCK)",
    "import re\nre.compile('x')",
    "from queue import SimpleQueue\nSimpleQueue()",
    "import queue\nqueue.Queue()",
    "from nearfar import Queue\nQueue()",
    "import nearfar\nnearfar.Queue(5)",
    "import json\njson.loads(text)",
    "from multiprocessing.connection import wait",
    "from nearfar.serialization import item_codec as codec\ncodec.decode(b, 1, trusted=False)",
    "from nearfar.serialization.pickles.pickler import dumps_for_family",
    "'''A pickle may run any code: no import pickle here.'''",
]


def test_code_that_reads_no_pickle_is_not_reported() -> None:
    for source in HARMLESS:
        assert reads(source) == set(), source
