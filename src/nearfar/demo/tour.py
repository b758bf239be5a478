"""The demo itself: what is done, in which order, and what a reader is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nearfar.demo import tables
from nearfar.demo.check import Checked
from nearfar.demo.commands import typed
from nearfar.demo.folder import output_folder
from nearfar.demo.gallery import Gallery
from nearfar.demo.runs import FOLDERS, SLOWLY, Run, Runs, fresh_server
from nearfar.demo.server import Server


def give_tour(root: Path, gallery: Gallery) -> list[str]:
    """Run the demo, saving below `root` and telling on standard output.

    Returns what was not as it should be, in sentences. Raises `Trouble` when it cannot go on.
    """
    with output_folder(root, FOLDERS):
        say("The same download, near and far. All of it happens on this machine, in a few seconds.")
        draw(gallery)
        runs = Runs(gallery, root, lambda line: say(f"   {line}"))
        done, wrong = [], []
        acts: tuple[tuple[str, Callable[[Server], Run], Callable[[Checked], None]], ...] = (
            ("2. Near: one command. Its processes share a multiprocessing.Queue", runs.near, tell_nothing),
            (
                "3. Far: two commands, a queue over TCP between them. They could be on two machines",
                runs.far,
                tell_nothing,
            ),
            ("4. Far again, with two consumers: one is killed in the middle", runs.kill, tell_kill),
            ("5. Far, and a pool fetches: its workers, too, could be on any machine", runs.pool, tell_pool),
        )
        for heading, begin, story in acts:
            say(f"\n{heading}")
            with fresh_server(gallery) as server:
                run = begin(server)
                *_, busy, dead = server.urls
            complaints = run.complaints(dead, busy)
            tell(run, complaints, story)
            done.append(run)
            wrong += complaints
    compare(done)
    return wrong


def draw(gallery: Gallery) -> None:
    pictures = [gallery.picture(name) or b"" for name in gallery.names()]
    megabytes = sum(map(len, pictures)) / 1e6
    say("\n1. A web site to download from")
    say(f"   {len(pictures)} pictures are drawn, {megabytes:.1f} MB in all, and served over HTTP.")
    say("   One more link is busy at first (503, come back in a second); one is dead (404).")


def tell(run: Run, complaints: list[str], story: Callable[[Checked], None]) -> None:
    """What the check of a run found; with nothing wrong, `story` tells more of it."""
    for complaint in complaints:
        say(f"   WRONG: {complaint}")
    if complaints:
        return
    say(f"   Checked: {len(run.checked.sizes)} files, equal byte for byte to what was drawn.")
    say("   The busy link was tried again; the dead one is the only failure.")
    story(run.checked)


def tell_nothing(checked: Checked) -> None:
    """All is said."""


def tell_kill(checked: Checked) -> None:
    other, killed = checked.files.values()
    say(f"   Nothing is missing: {killed} files are from the killed consumer, {other} from the other one,")
    say("   which also got what the killed one had in hand.")
    if checked.twice:
        say(f"   ({checked.twice} are from both: the killed one had saved them, and died before saying so.)")


def tell_pool(checked: Checked) -> None:
    shares = " and ".join(map(str, checked.files.values()))
    say(f"   Two workers fetched, and the consumers saved {shares} files.")


def compare(runs: list[Run]) -> None:
    say("\n6. Side by side")
    tables.show(tables.contrast(runs))
    say("   Seconds are those of whole commands, from start to exit; the pool was there before. One second")
    say("   goes to waiting for the busy link.")
    say(f"   The run with the kill was slowed down ({SLOWLY} bytes a second), so that it has a middle.")
    say("\n7. What each queue promises")
    tables.show(tables.promised())


def farewell(root: Path) -> None:
    """What to type next."""
    say(f"All is as it should be. The pictures are in {root}.")
    say("\nYour turn. In one terminal:")
    say(f"   {typed('consumer', '-o', 'downloads')}")
    say("and in another, with any links you like:")
    say(f"   {typed('producer', 'https://www.python.org/static/img/python-logo.png')}")


def say(line: str) -> None:
    print(line, flush=True)
