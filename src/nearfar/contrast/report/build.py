"""Puts a report together from a document."""

from __future__ import annotations

from nearfar.contrast.report import download, faults, pool, queue
from nearfar.contrast.report.findings import findings
from nearfar.contrast.report.gather import Document, Gathered
from nearfar.contrast.report.glance import glances
from nearfar.contrast.report.model import Report

BUSY = 0.5
"""Load for each core from which on times are not to be trusted."""
METHODS = (
    "Every figure comes from processes made for it. What is timed has the machine to itself (as far as the"
    " contrast is concerned) and runs in alternating rounds, begun by another contestant each time; shown"
    " are medians, the lowest and the highest round, and ratios taken within a round. Fault stories run side"
    " by side: they are counted, not timed.",
    "All processes on this machine start by fork. Items are random bytes, all different within a batch."
    " multiprocessing.Queue pickles, PUSH/PULL carries msgpack, far queues carry msgpack and pickle what it"
    " cannot express.",
    "An item counts as received once its consumer has written down that it was handled; as sent once its put"
    " has returned. So one whose consumer dies between handling and saying so may come again: twice.",
    "A far queue keeps what live producers put. What a killed producer had put and not yet sent is gone, as"
    " over every other transport: of items put in a burst, that may be a few.",
    "The far queue runs with a lease of 1 s instead of 10, so that a frozen consumer's story is short."
    " PUSH/PULL has as high-water mark the bound of the others, at both ends.",
    "Whatever hangs is killed when its time is over, and is reported as stuck.",
)
GAPS = (
    "Networks: everything is on one machine, over loopback. Latency, bandwidth, lost packets and partitions"
    " of a real network are not in any figure.",
    "Encryption: far queues and pools run without keys here.",
    "Many peers: one producer and at most two consumers, two workers.",
    "Long runs: each figure is of seconds. Start methods other than fork, and systems other than this one.",
    "nearfar's own download programs, which fetch in parallel, verify, resume and account for every file.",
)


def build(document: Document) -> Report:
    """The whole report; what was not measured is left out of it."""
    gathered = Gathered(document)
    made = [each.section(gathered) for each in (faults, queue, download, pool)]
    return Report(
        findings=[*busy(document), *findings(gathered)],
        glance=glances(gathered),
        sections=[section for section in made if section],
        setting=setting(document),
        methods=METHODS,
        gaps=GAPS,
        troubles=gathered.troubles(),
    )


def busy(document: Document) -> list[str]:
    """A warning where others had much of the machine."""
    machine = document["machine"]
    if machine["load"] < machine["cores"] * BUSY:
        return []
    return [
        f"The machine was busy when this began (load {machine['load']} on {machine['cores']} cores): the"
        " counts hold, the times and rates mean little."
    ]


def setting(document: Document) -> list[tuple[str, str]]:
    """Where and how."""
    machine, settings = document["machine"], document["settings"]
    cores = f"{machine['cores']} core{'s' * (machine['cores'] != 1)}"
    return [
        ("machine", f"{machine['processor']}, {cores}, {machine['memory'] / 2**30:.1f} GiB"),
        ("system", machine["system"]),
        ("Python", machine["python"]),
        (
            "libraries",
            f"nearfar {machine['nearfar']}, pyzmq {machine['pyzmq']}, libzmq {machine['libzmq']},"
            f" msgpack {machine['msgpack']}",
        ),
        ("rounds and trials", f"{settings['rounds']} of what is timed, {settings['trials']} of each fault"),
        ("load", f"{machine['load']} in the minute before"),
        (
            "measured",
            f"{document['ended'].replace('T', ' ').replace('+00:00', ' UTC')}, in {document['took']:.0f} s",
        ),
    ]
