"""A web crawler: the queue of pages to visit (the frontier) is shared by processes here, or on many machines.

On one machine, with four processes:

    python crawler.py http://127.0.0.1:8000/

On several: this program hosts the frontier, and each other machine joins it with processes of its own.

    python crawler.py http://127.0.0.1:8000/ --at tcp://127.0.0.1:5555
    python crawler.py --join tcp://127.0.0.1:5555

Only the crawl's parent decides which pages are new, so each page is fetched once. A far frontier gives the
page of a killed process to another one; a near frontier cannot do that (`promises().redelivers`).
"""

import argparse
import re
from collections.abc import Iterator
from multiprocessing import Process
from urllib.error import URLError
from urllib.parse import urldefrag, urljoin, urlsplit
from urllib.request import urlopen

from nearfar import Queue

LINK = re.compile(rb"""<a\s[^>]*?href=["']([^"'>]+)""", re.IGNORECASE)
PAGE = 1_000_000
"""Bytes of a page that are read."""


def visit(address, frontier, found):
    """Fetch pages until the frontier is shut down. `address` is None, or a far frontier's address."""
    if address is not None:
        frontier, found = Queue.connect(address), Queue.connect(beside(address))
    for page in frontier:
        try:
            links = links_of(page)
        except (URLError, OSError, ValueError) as error:
            found.put((page, [], str(error)))
        else:
            found.put((page, links, ""))
    found.close()


def links_of(page: str) -> list[str]:
    """The pages on the same host that `page` links to."""
    with urlopen(page, timeout=10) as answer:
        if answer.headers.get_content_type() != "text/html":
            return []
        text, base = answer.read(PAGE), answer.url
    links = (urldefrag(urljoin(base, link.decode("utf-8", "replace"))).url for link in LINK.findall(text))
    return sorted({link for link in links if urlsplit(link)[:2] == urlsplit(page)[:2]})


def crawl(start: str, frontier, found, limit: int) -> Iterator[tuple[str, str]]:
    """Each page that was visited, and what went wrong with it, if anything."""
    seen, waiting = {start}, {start}
    frontier.put(start)
    while waiting:
        page, links, error = found.get()
        if page not in waiting:
            continue  # a second process has visited it, after the first was killed
        waiting.remove(page)
        new = [link for link in links if link not in seen][: limit - len(seen)]
        seen.update(new)
        waiting.update(new)
        frontier.put_many(new)
        yield page, error
    frontier.shutdown()


def beside(address: str) -> str:
    """The address of the queue of answers: the next port."""
    place, _, port = address.rpartition(":")
    return f"{place}:{int(port) + 1}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="visit the pages of one host")
    parser.add_argument("start", nargs="?", help="the first page")
    parser.add_argument("--at", metavar="ADDRESS", help="host the frontier there, for other machines")
    parser.add_argument("--join", metavar="ADDRESS", help="help the crawl there")
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--limit", type=int, default=1000, help="pages at most")
    options = parser.parse_args()
    if (options.start is None) == (options.join is None):
        parser.error("give either the first page or --join")

    address = options.join or options.at
    frontier = found = None
    if options.join is None:
        frontier = Queue(0, options.at) if options.at else Queue()
        found = Queue(0, beside(options.at)) if options.at else Queue()
    crawlers = [
        Process(target=visit, args=(address, None, None) if address else (None, frontier, found))
        for _ in range(options.processes)
    ]
    for crawler in crawlers:
        crawler.start()
    if options.join is None:
        for page, error in crawl(options.start, frontier, found, options.limit):
            print(page, error)
    for crawler in crawlers:
        crawler.join()
