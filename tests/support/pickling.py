"""A caller and one worker process, with only a pool's pickling of calls, results and errors.

``python -m tests.support.pickling FD`` is a worker that knows nothing of the caller's `__main__`.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nearfar.serialization.names import inherited_main
from nearfar.serialization.pickles.calls import CallLoader, CallPickler
from nearfar.serialization.pickles.results import (
    dump_error,
    dump_result,
    dump_unsendable,
    load_error,
    load_result,
)

if TYPE_CHECKING:
    from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]


class Caller:
    """Calls functions in the worker at the other end of `pipe`."""

    def __init__(self, pipe: Connection, pickler: CallPickler) -> None:
        self.pickler = pickler
        self._pipe = pipe

    def __call__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.call("me", func, *args, **kwargs)

    def call(self, client: str, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return self.send(client, 0, *self.pickler.dump_call(func, args, kwargs))

    def map(self, func: Callable[[Any], Any], items: Any) -> Any:
        return self.send("me", 1, *self.pickler.dump_chunk(func, items))

    def send(self, client: str, mode: int, function: bytes, blob: bytes, buffers: Any) -> Any:
        self._pipe.send((client, mode, function, blob, [bytes(each) for each in buffers]))
        good, answer, beside = self._pipe.recv()
        if good:
            return load_result(answer, beside)
        raise load_error(answer)


def serve(pipe: Connection, main_of: str | None, far: bool) -> None:
    """Be the worker, until the other end closes."""
    loader = CallLoader(main_of, far=far)
    while True:
        try:
            client, mode, function, blob, buffers = pipe.recv()
        except EOFError:
            return
        try:
            func, args, kwargs = loader.load(function, mode, blob, buffers, client)
            value = func(*args, **kwargs) if mode == 0 else [func(each) for each in args]
        except BaseException as error:
            pipe.send((False, dump_error(error, main=main_of is not None), []))
            continue
        try:
            answer, beside = dump_result(value, main=main_of is not None, family=main_of is not None)
        except Exception as error:
            pipe.send((False, dump_unsendable(error, value), []))
        else:
            pipe.send((True, answer, [bytes(each) for each in beside]))


def garbage(most: int) -> st.SearchStrategy[bytes]:
    """Up to `most` random bytes without opcodes for which pickle allocates as much memory as the next bytes
    announce."""
    from hypothesis import strategies as st  # only here: a worker of another Python has none

    return st.binary(max_size=most).map(lambda data: data.translate(None, b"pr\x96"))


@contextmanager
def far_worker(python: str = sys.executable) -> Iterator[Caller]:
    """A worker without this process's `__main__`. Another `python` uses our packages."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        command = [python, "-m", "tests.support.pickling", str(fd)]
        packages = [] if python == sys.executable else [_packages()]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src"), *packages])}
        process = subprocess.Popen(command, pass_fds=[fd], cwd=ROOT, env=environment)
        pipe = Connection(os.dup(ours.fileno()))
    try:
        with pipe:
            yield Caller(pipe, CallPickler(far=True, main=None))
    finally:
        process.wait(20)


def _packages() -> str:
    """Where cloudpickle is, which any Python can use: found, and not imported."""
    found = importlib.util.find_spec("cloudpickle")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parents[1])


@contextmanager
def near_worker(method: str, far: bool = False) -> Iterator[Caller]:
    """A worker that `multiprocessing` starts by `method`; `far`: the pool has far workers, too."""
    context = get_context(method)
    ours, theirs = context.Pipe()
    main = inherited_main(method)
    process = context.Process(target=_serve_alone, args=(ours, theirs, "me" if main else None, far))
    process.start()
    theirs.close()
    try:
        with ours:
            yield Caller(ours, CallPickler(far=far, main=main))
    finally:
        process.join(20)
        process.close()


def _serve_alone(ours: Connection, theirs: Connection, main_of: str | None, far: bool) -> None:
    ours.close()
    serve(theirs, main_of, far)


def run_script(folder: Path, source: str, *options: str) -> None:
    """Run `source` as a program; its assertions are the test's. With ``-c``, as an argument of Python."""
    if "-c" in options:
        place = source
    else:
        path = folder / "program.py"
        path.write_text(source)
        place = str(path)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, *options, place],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as pipe:
        serve(pipe, None, True)
