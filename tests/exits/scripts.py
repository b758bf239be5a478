"""Programs of users that end in the middle of something: how each must end, as data.

Where multiprocessing's own behaviour is sane, it is the reference; `standard` says that the very script, with the
standard's Pool and Queue in place of ours, ends the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

WAIT = 1.0
"""`wait` of every end in the scripts: seconds for a host that is away."""
HOST_STOPS = 2.0
"""`FarQueue.stop_hosting`: for ends to say goodbye."""
FAREWELL = 2.0
"""Of a pool whose workers or whose coordinator are elsewhere."""
AT_ONCE = 1.0

PRELUDE = """
import asyncio, atexit, multiprocessing, os, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Process, get_context
from nearfar import Executor, JoinableQueue, Pool, Queue

HERE = "ipc://" + os.path.abspath("q")
NOBODY = "ipc://" + os.path.abspath("nobody")


def nap(seconds=60):
    time.sleep(seconds)
    return seconds


def hold_gil():
    while True:
        pass


def leave(code=3):
    os._exit(code)


def use(shared):
    return None


def sleepy(n):
    time.sleep(0.05)
    return n


def taken(q):
    try:
        q.get()
    except Exception as error:
        print(type(error).__name__, flush=True)


if __name__ == "__main__":
    open("begun", "w").close()
"""


@dataclass(frozen=True)
class Script:
    """What is in ``if __name__ == "__main__":``, and how the program ends."""

    name: str
    body: str
    within: float = AT_ONCE
    code: int = 0
    out: str = ""
    err: tuple[str, ...] = ()
    """What standard error must hold, a line each at most; nothing else is said if this is empty."""
    options: tuple[str, ...] = ()
    one_liner: bool = False
    """Run by ``python -c``, without the prelude."""
    everyday: bool = False
    traceback: bool = False
    """Whether the script itself ends by an exception, which Python shows."""

    def source(self) -> str:
        if self.one_liner:
            return self.body
        return PRELUDE + "".join(f"    {line}\n" for line in self.body.splitlines())


QUEUES = (
    Script("a near queue, open", "q = Queue()\nq.put(1)"),
    Script("a near queue, closed", "q = Queue()\nq.put(1)\nq.close()\nq.join_thread()"),
    Script(
        "a near queue with more than a pipe holds, given up",
        "q = Queue()\nq.put(b'x' * 10_000_000)\nq.cancel_join_thread()",
    ),
    Script("a hosted queue, never used", "q = Queue(5, HERE)", HOST_STOPS),
    Script("a hosted queue, open, items untaken", "q = Queue(0, HERE)\nq.put_many(range(1000))", HOST_STOPS, everyday=True),
    Script("a hosted queue, items in hand", "q = Queue(0, HERE)\nq.put_many(range(9))\nq.get()\nq.receive()", HOST_STOPS),
    Script("a hosted joinable queue, not done", "q = JoinableQueue(0, HERE)\nq.put(1)\nq.get()", HOST_STOPS),
    Script("an end that was never used", "q = Queue.connect(NOBODY)"),
    Script(
        "an end without a host",
        "q = Queue.connect(NOBODY, wait=1.0)\nq.put(1)",
        WAIT + AT_ONCE,
        1,
        err=("QueueLost: no host has answered",),
        traceback=True,
    ),
    Script(
        "unsent items and the host away",
        """
host = get_context("spawn").Process(target=nap, daemon=True)
import subprocess
host = subprocess.Popen([sys.executable, "-m", "tests.support.hosting", HERE, '{"lease": 1.0}'], stdin=-1, stdout=-1)
host.stdout.readline()
q = Queue.connect(HERE, wait=1.0)
q.put(1)
host.kill()
host.wait()
host.stdin.close(); host.stdout.close()
os.unlink("q")
[os.unlink(name) for name in os.listdir() if name.startswith("q.")]
q.put(2)
""",
        1.0 + WAIT + AT_ONCE,
        err=("items may be lost: no host has answered",),
    ),
    Script(
        "unsent items given up",
        "q = Queue(1, HERE)\nq.cancel_join_thread()\nq.put(1)\nthreading.Thread(target=q.put, args=(2,), daemon=True).start()",
        HOST_STOPS,
    ),
    Script(
        "a get in a daemon thread",
        "q = Queue(0, HERE)\nthreading.Thread(target=taken, args=(q,), daemon=True).start()\ntime.sleep(0.2)",
        HOST_STOPS,
        everyday=True,
    ),
    Script(
        "a get in a daemon thread, near",
        "q = Queue()\nthreading.Thread(target=q.get, daemon=True).start()\ntime.sleep(0.2)",
    ),
    Script(
        "a get in a daemon thread without a host",
        "q = Queue.connect(NOBODY, wait=30.0)\nthreading.Thread(target=q.get, daemon=True).start()\ntime.sleep(0.2)",
        everyday=True,
    ),
    Script(
        "a put in a daemon thread without a host",
        "q = Queue.connect(NOBODY, wait=30.0)\nthreading.Thread(target=q.put, args=(1,), daemon=True).start()\ntime.sleep(0.2)",
    ),
    Script(
        "a put at the bound in a daemon thread",
        "q = Queue(1, HERE)\nq.put(1)\nthreading.Thread(target=q.put, args=(2,), daemon=True).start()\ntime.sleep(0.2)",
        HOST_STOPS,
    ),
    Script(
        "a join in a daemon thread",
        "q = JoinableQueue(0, HERE)\nq.put(1)\nthreading.Thread(target=q.join, daemon=True).start()\ntime.sleep(0.2)",
        HOST_STOPS,
    ),
    Script(
        "a get in a thread, until its host is gone for too long",
        "q = Queue.connect(NOBODY, wait=1.0)\nthreading.Thread(target=taken, args=(q,)).start()",
        WAIT + AT_ONCE,
        out="QueueLost\n",
    ),
    Script(
        "a get in a thread, shut down at exit",
        "q = Queue(0, HERE)\nthreading.Thread(target=taken, args=(q,)).start()\nq.shutdown()",
        HOST_STOPS,
        out="ShutDown\n",
    ),
    Script(
        "an exception with a queue open",
        "q = Queue(0, HERE)\nq.put(1)\nraise SystemError('mine')",
        HOST_STOPS,
        1,
        err=("SystemError: mine",),
        traceback=True,
    ),
    Script("an exception in with", "with Queue(0, HERE) as q:\n    q.put(1)\n    sys.exit(4)", HOST_STOPS, 4),
    Script("a queue as a module's global", "global Q\nQ = Queue(0, HERE)\nQ.put(1)\nsys.modules['mine'] = Q", HOST_STOPS),
    Script("a queue in a circle", "q = Queue(0, HERE)\nq.put(1)\nq.me = q\ndel q", HOST_STOPS),
    *(
        Script(
            f"a child that holds a queue, {method}",
            f"""
q = Queue(0, HERE)
q.put_many(range(3))
child = get_context({method!r}).Process(target=taken, args=(q,))
child.start()
child.join()
print(child.exitcode)
""",
            HOST_STOPS + 2 * AT_ONCE,
            out="0\n",
        )
        for method in ("fork", "forkserver", "spawn")
    ),
    Script(
        "a forked child that leaves by the usual way",
        "q = Queue(0, HERE)\nq.put(1)\npid = os.fork()\nif not pid:\n    sys.exit(5)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), q.get())",
        HOST_STOPS,
        out="5 1\n",
        everyday=True,
    ),
    Script(
        "a child that is still there, and a queue",
        "q = Queue(0, HERE)\nProcess(target=nap, args=(0.5,)).start()",
        HOST_STOPS + 0.5 + AT_ONCE,
    ),
    Script(
        "a daemon child in get",
        "q = Queue(0, HERE)\nProcess(target=taken, args=(q,), daemon=True).start()\ntime.sleep(0.5)",
        HOST_STOPS,
    ),
    Script(
        "a frozen consumer elsewhere",
        "q = Queue(0, HERE)\nchild = Process(target=taken, args=(q,), daemon=True)\nchild.start()\ntime.sleep(0.5)\nos.kill(child.pid, signal.SIGSTOP)\nq.put(1)\natexit.register(lambda: os.kill(child.pid, signal.SIGCONT))",
        HOST_STOPS + AT_ONCE,
    ),
    Script(
        "many queues",
        "qs = [Queue(0, f'{HERE}{n}') for n in range(10)]\n[q.put(1) for q in qs]",
        HOST_STOPS + AT_ONCE,
    ),
    Script(
        "the order of atexit",
        "q = Queue(0, HERE)\nq.put(7)\natexit.register(lambda: print('last words', q.get()))",
        HOST_STOPS,
        out="last words 7\n",
    ),
    Script("python -X dev and a queue", "q = Queue(0, HERE)\nq.put(1)\nq.get()", HOST_STOPS, options=("-X", "dev")),
    Script("python -c and a queue", "from nearfar import Queue; q = Queue(0, 'tcp://127.0.0.1:*'); q.put(1); print(q.get())", HOST_STOPS, out="1\n", one_liner=True),
    Script("python -c and an end", "from nearfar import Queue; Queue.connect('tcp://127.0.0.1:9')", one_liner=True),
    Script("python -c and nothing", "import nearfar", one_liner=True),
)
