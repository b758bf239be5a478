"""As `scripts`, for pools and executors."""

from __future__ import annotations

from tests.exits.scripts import AT_ONCE, FAREWELL, WAIT, Script

START = 2 * AT_ONCE
"""Seconds for the script's own workers to start, under spawn and forkserver."""

MIDDLE = "time.sleep(0.3)"

POOLS = (
    Script("a pool, never used", "pool = Pool(2)", everyday=True),
    Script("a pool, used and open", "pool = Pool(2)\nprint(pool.map(abs, range(3)))", out="[0, 1, 2]\n"),
    Script("a pool, closed and not joined", "pool = Pool(2)\npool.apply_async(nap, (0.2,))\npool.close()"),
    Script("a pool in the middle of apply_async", f"pool = Pool(2)\n[pool.apply_async(nap) for _ in range(9)]\n{MIDDLE}", everyday=True),
    Script("a pool in the middle of map_async", f"pool = Pool(2)\npool.map_async(sleepy, range(100000))\n{MIDDLE}"),
    Script("a pool in the middle of imap", f"pool = Pool(2)\nfor n in pool.imap(sleepy, iter(int, 1)):\n    break\n{MIDDLE}"),
    Script("a pool in the middle of imap_unordered", "pool = Pool(2)\nresults = pool.imap_unordered(sleepy, iter(int, 1))\nnext(results)"),
    Script("a map in a daemon thread", f"pool = Pool(2)\nthreading.Thread(target=pool.map, args=(nap, range(9)), daemon=True).start()\n{MIDDLE}", everyday=True),
    Script("a hung task", f"pool = Pool(2)\npool.apply_async(hold_gil)\n{MIDDLE}"),
    Script("a hung task and a call that waits for it in with", f"with Pool(1) as pool:\n    pool.apply_async(hold_gil)\n    pool.apply_async(nap)\n    {MIDDLE}"),
    Script("an exception in with", "with Pool(2) as pool:\n    pool.apply_async(nap)\n    raise SystemError('mine')", code=1, err=("SystemError: mine",), traceback=True),
    Script("sys.exit in with", "with Pool(2) as pool:\n    pool.apply_async(nap)\n    sys.exit(4)", code=4),
    Script("sys.exit in a thread", "pool = Pool(2)\ndef end():\n    pool.apply_async(nap)\n    sys.exit(5)\nthread = threading.Thread(target=end)\nthread.start()\nthread.join()"),
    Script("sys.exit in a task", "pool = Pool(2)\ntry:\n    pool.apply(sys.exit, (6,))\nexcept BaseException as error:\n    print(repr(error))", out="SystemExit(6)\n"),
    Script("an unhandled exception", f"pool = Pool(2)\npool.apply_async(nap)\n{MIDDLE}\nraise SystemError('mine')", code=1, err=("SystemError: mine",), traceback=True),
    Script("os._exit in a worker", "pool = Pool(2)\npool.apply_async(leave)\npool.apply_async(leave)\ntime.sleep(0.2)"),
    Script("os._exit in the program", f"pool = Pool(2)\npool.apply_async(hold_gil)\n{MIDDLE}\nos._exit(7)", code=7),
    Script("a worker frozen", f"pool = Pool(1)\nprint(pool.apply(abs, (1,)))\npid = pool.apply(os.getpid)\nos.kill(pid, signal.SIGSTOP)\npool.apply_async(nap)\n{MIDDLE}", out="1\n"),
    Script("an initializer that never ends", f"pool = Pool(2, nap)\n{MIDDLE}"),
    Script("a pool as a module's global", "global POOL\nPOOL = Pool(2)\nPOOL.apply_async(nap)\nsys.modules['mine'] = POOL", everyday=True),
    Script("a pool in a circle", "pool = Pool(2)\npool.me = pool\npool.apply_async(nap)\ndel pool"),
    Script("two pools", "one, two = Pool(2), Pool(2)\n[pool.apply_async(nap) for pool in (one, two)]"),
    Script("the order of atexit", "pool = Pool(2)\natexit.register(lambda: print('last words', pool.apply(abs, (-1,))))", out="last words 1\n"),
    Script("a pool made at exit", "atexit.register(lambda: print(Pool(1).apply(abs, (-1,))))", out="1\n"),
    Script("a callback under way", "pool = Pool(1)\npool.apply_async(abs, (1,), callback=nap)\ntime.sleep(0.3)\nos.kill(os.getpid(), 0)", within=AT_ONCE),
    *(
        Script(f"a pool under {method}", f"pool = Pool(2, context=get_context({method!r}))\nprint(pool.apply(abs, (-1,)))\npool.apply_async(nap)", START, out="1\n")
        for method in ("fork", "forkserver", "spawn")
    ),
    *(
        Script(f"a pool under {method} whose workers are starting", f"pool = Pool(2, context=get_context({method!r}))", START)
        for method in ("forkserver", "spawn")
    ),
    Script("a forked child that holds a pool", "pool = Pool(2)\npool.apply_async(nap)\npid = os.fork()\nif not pid:\n    sys.exit(5)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), pool.apply(abs, (1,)))", out="5 1\n", everyday=True),
    Script("a Process that holds a pool", "global POOL\nPOOL = Pool(2)\nPOOL.apply_async(nap)\nchild = get_context('fork').Process(target=use, args=(1,))\nchild.start()\nchild.join()\nprint(child.exitcode)", out="0\n"),
    Script("a child of a task", "pool = Pool(1)\nprint(pool.apply(os.system, ('sleep 0.1',)))", out="0\n"),
    Script("an executor with pending futures", "executor = Executor(2)\n[executor.submit(nap, 0.1) for _ in range(6)]", 0.3 + AT_ONCE),
    Script("an executor, pending futures cancelled", "executor = Executor(1)\n[executor.submit(nap, 0.2) for _ in range(90)]\nexecutor.shutdown(wait=False, cancel_futures=True)", 1 + AT_ONCE),
    Script("an executor and an exception", "executor = Executor(2)\nexecutor.submit(nap, 0.2)\nraise SystemError('mine')", 0.2 + AT_ONCE, 1, err=("SystemError: mine",), traceback=True),
    Script("asyncio, to the end", "async def go():\n    loop = asyncio.get_running_loop()\n    with Executor(2) as executor:\n        print(await asyncio.gather(*(loop.run_in_executor(executor, abs, -n) for n in range(3))))\nasyncio.run(go())", out="[0, 1, 2]\n"),
    Script("asyncio, cancelled", "async def go():\n    loop = asyncio.get_running_loop()\n    executor = Executor(2)\n    try:\n        await asyncio.wait_for(loop.run_in_executor(executor, nap, 0.5), 0.1)\n    except TimeoutError:\n        print('late')\nasyncio.run(go())", 0.5 + AT_ONCE, out="late\n"),
    Script("asyncio and a pool in a thread", "async def go():\n    pool = Pool(2)\n    print(await asyncio.to_thread(pool.apply, abs, (-1,)))\n    pool.apply_async(nap)\nasyncio.run(go())", out="1\n"),
    Script("threads that wait for calls", "pool = Pool(2)\nwith ThreadPoolExecutor(4) as threads:\n    print(sum(threads.map(lambda n: pool.apply(abs, (n,)), range(20))))", out="190\n"),
    Script("workers elsewhere, nobody comes", "pool = Pool(0, address=HERE)\npool.apply_async(nap)\ntime.sleep(0.2)", FAREWELL + AT_ONCE, everyday=True),
    Script("a pool with an address and workers of its own", "pool = Pool(1, address=HERE)\nprint(pool.apply(abs, (1,)))\npool.apply_async(hold_gil)\ntime.sleep(0.2)", FAREWELL + AT_ONCE, out="1\n"),
    Script("a client that was never used", "pool = Pool.connect(NOBODY)"),
    Script("a client without a coordinator", "pool = Pool.connect(NOBODY, wait=30.0)\npool.apply_async(nap)\ntime.sleep(0.2)", FAREWELL + AT_ONCE, everyday=True),
    Script("a call in a daemon thread without a coordinator", "pool = Pool.connect(NOBODY, wait=30.0)\nthreading.Thread(target=pool.apply, args=(nap,), daemon=True).start()\ntime.sleep(0.2)", FAREWELL + AT_ONCE),
    Script("an executor without a coordinator", "executor = Executor.connect(NOBODY, wait=1.0)\nexecutor.submit(nap)", WAIT + AT_ONCE),
    Script("Ctrl-C while it waits", "pool = Pool(2)\nthreading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()\npool.map(nap, range(9))", 0.3 + AT_ONCE, -2, err=("KeyboardInterrupt",), traceback=True),
    Script("SIGTERM while it waits", "pool = Pool(2)\nthreading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()\npool.map(nap, range(9))", 0.3 + AT_ONCE, -15),
    Script("python -X dev and a pool", "with Pool(2) as pool:\n    print(pool.map(abs, range(3)))", out="[0, 1, 2]\n", options=("-X", "dev")),
    Script("python -c and a pool", "from nearfar import Pool; pool = Pool(2); print(pool.map(abs, [-1])); pool.apply_async(__import__('time').sleep, (60,))", out="[1]\n", one_liner=True),
    Script("python -c and an executor", "from nearfar import Executor; print(Executor(1).submit(abs, -1).result())", out="1\n", one_liner=True),
)
