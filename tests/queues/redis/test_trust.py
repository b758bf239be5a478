"""Who is trusted by a queue in Redis: passwords, TLS, keys, and signatures."""

from __future__ import annotations

import logging
import pickle
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgpack
import pytest

from nearfar import Queue
from nearfar.errors import AddressError, ItemError, KeysError, NotAdmitted, QueueLost, Untrusted
from nearfar.net import auth
from tests.queues.contract import LIMIT, Point, outcome
from tests.support import redis_server
from tests.support.keys import keys

pytestmark = redis_server.needed
LEASE = 1.0
SECRET = "s3cret"


@pytest.fixture
def address() -> str:
    return redis_server.address()


def server_of(address: str) -> Any:
    import redis

    return redis.Redis(port=int(address.split(":")[2].partition("/")[0]))


def add_item(address: str, body: bytes) -> None:
    """As an attacker with the rights of the server: an item that no producer put."""
    name = f"nearfar:{{{address.rpartition('/')[2]}}}"
    with closing(server_of(address)) as server:
        figures = msgpack.unpackb(server.get(name))
        figures["last"] += 1
        figures["stored"] += 1
        figures["size"] += 1
        figures["bytes"] += len(body)
        server.set(name, msgpack.packb(figures), keepttl=True)
        server.xadd(f"{name}:items", {"b": body}, id=f"{figures['last']}-0")


def test_without_keys_only_plain_data(address: str) -> None:
    """Given a queue without keys: I expect no pickle to be sent, and none to be read."""
    from nearfar.serialization.item_codec import PICKLE

    plain = [None, 1, "a", b"b", [1, (2,)], {"k": {3}}, 2**80]
    with Queue(0, address, lease=LEASE) as queue:
        queue.put_many(plain)
        assert queue.get_many(9) == plain
        with pytest.raises(ItemError, match="not trusted with pickle"):
            queue.put(Point(1))
        add_item(address, msgpack.packb(msgpack.ExtType(PICKLE, pickle.dumps(Point(1)))))
        queue.put("after")
        with pytest.raises(Untrusted):
            queue.get(timeout=LIMIT)
        assert queue.get(timeout=LIMIT) == "after"
        assert queue.counts()["dead"] == 1
        [(item, _, [why])] = queue.dead_letters()
        assert type(item) is bytes
        assert "could not be read" in why


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The folder of a service, and that of a client that it admits."""
    auth.init(tmp_path / "service")
    made = auth.add(tmp_path / "service", "laptop")
    assert made is not None
    return tmp_path / "service", made


def test_with_keys_all_objects_pass_between_a_service_and_its_clients(
    address: str, folders: tuple[Path, Path]
) -> None:
    service, client = folders
    with Queue(0, address, keys=service, lease=LEASE) as queue, Queue.connect(address, keys=client) as laptop:
        laptop.put(Point(1))
        assert queue.get(timeout=LIMIT) == Point(1)
        queue.put(Point(2))
        assert laptop.get(timeout=LIMIT) == Point(2)


def test_a_revoked_key_signs_nothing_that_is_read(
    address: str, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nearfar.queues.redis import signatures

    monkeypatch.setattr(signatures, "REFRESH", 0.0)
    service, client = folders
    with Queue(0, address, keys=service, lease=LEASE) as queue, Queue.connect(address, keys=client) as laptop:
        laptop.put_many([1, 2])
        assert queue.get(timeout=LIMIT) == 1
        auth.revoke(service, "laptop")
        with pytest.raises(Untrusted, match="not signed with a key that is accepted here"):
            queue.get(timeout=LIMIT)


def test_forged_items_are_put_aside(address: str, folders: tuple[Path, Path]) -> None:
    """Given an attacker who can write into the server: unsigned items, changed ones, signatures by another
    key, and those of another queue are not read, and the items around them are."""
    from nearfar.queues.redis.signatures import Signer

    service, _ = folders
    strange = service.with_name("strange")
    auth.init(strange)
    with Queue(0, address, keys=service, lease=LEASE) as queue:
        name = address.rpartition("/")[2]
        good = Signer(service, name).sign(b"\x01")
        forged = [b"\x01", b"", good[:-1] + b"\x02", b"\0" * 96 + b"\x01", good[:32] + b"\0" * 64 + b"\x01"]
        forged += [Signer(strange, name).sign(b"\x01"), Signer(service, "other").sign(b"\x01")]
        queue.put("before")
        for body in forged:
            add_item(address, body)
        queue.put("after")
        assert queue.get(timeout=LIMIT) == "before"
        for _ in forged:
            with pytest.raises(Untrusted):
                queue.get(timeout=LIMIT)
        assert queue.get(timeout=LIMIT) == "after"
        assert queue.counts()["dead"] == len(forged)


def test_signatures_are_those_of_ed25519(folders: tuple[Path, Path]) -> None:
    """XEdDSA: each signature verifies under the Ed25519 form of the key; none is made twice."""
    from nacl.bindings import crypto_sign_open

    from nearfar.queues.redis.signatures import HEAD, Signer, _to_edwards

    signer = Signer(folders[0], "q")
    made = {signer.sign(b"body") for _ in range(20)}
    assert len(made) == 20
    for one in made:
        assert crypto_sign_open(one[32:HEAD] + b"nearfar item 1\0q\0body", _to_edwards(one[:32]))


def test_one_side_without_keys_is_told(address: str, folders: tuple[Path, Path]) -> None:
    with Queue(0, address, keys=folders[0], lease=LEASE), closing(Queue.connect(address)) as plain:
        for call in (plain.get, lambda: plain.put(1)):
            with pytest.raises(NotAdmitted, match="are signed, and this side has no keys"):
                call()
    other = redis_server.address()
    with (
        Queue(0, other, lease=LEASE),
        closing(Queue.connect(other, keys=folders[1])) as queue,
        pytest.raises(NotAdmitted, match="are not signed, and this side has keys"),
    ):
        queue.get()


def test_keys_that_cannot_be_read_are_refused_at_once(address: str, tmp_path: Path) -> None:
    for keys_, insecure in ((tmp_path / "none", False), (keys(), True)):
        with pytest.raises(KeysError):
            Queue.connect(address, keys=keys_, insecure=insecure)


# -- the server's own access control -----------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[redis_server.Server]:
    """A server with a user who has the rights that docs/redis.md names, and no other access."""
    page = (Path(__file__).parents[3] / "docs" / "redis.md").read_text()
    rights = re.search(r"^ACL SETUSER (pictures .*)$", page, re.MULTILINE)
    assert rights is not None
    user = rights[1].replace(">PASSWORD", f">{SECRET}").split()
    with redis_server.running("--requirepass", "other", *redis_server.DURABLE) as server:
        with administrator(server) as admin:
            admin.execute_command("ACL", "SETUSER", *user)
        yield server


def administrator(server: redis_server.Server) -> Any:
    """A connection that may change the rights of users."""
    import redis

    return closing(redis.Redis(port=server.port, password="other"))


def test_what_a_user_may_not_ask_is_not_promised(
    guarded: redis_server.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_REDIS_PASSWORD", SECRET)
    with (
        administrator(guarded) as admin,
        Queue(2, f"redis://pictures@127.0.0.1:{guarded.port}/0/pictures", lease=LEASE) as queue,
    ):
        admin.execute_command("ACL", "SETUSER", "pictures", "-config|get")
        assert queue.promises().durable and not queue.promises().survives_power_cut
        admin.execute_command("ACL", "SETUSER", "pictures", "-info")
        assert not queue.promises().durable


def test_a_user_with_the_documented_rights_can_do_everything(
    guarded: redis_server.Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"127.0.0.1:{guarded.port}/0/pictures"
    (tmp_path / "password").write_text(f"{SECRET}\n")
    with Queue(2, f"redis://pictures@{place}?password-file={tmp_path}/password", lease=LEASE) as queue:
        monkeypatch.setenv("NEARFAR_REDIS_PASSWORD", SECRET)
        with Queue.connect(f"redis://pictures@{place}") as other:
            other.put("a")
            held = queue.receive(timeout=LIMIT)
            held.nack()
            assert queue.get(timeout=LIMIT) == "a"
            assert (queue.qsize(), queue.full(), queue.dead_letters()) == (0, False, [])
            assert outcome(queue.get, True, 0.01) == "Empty"
            assert queue.promises().durable and queue.promises().survives_power_cut
        queue.shutdown(immediate=True)
        queue.delete()  # type: ignore[attr-defined]


def test_no_text_shows_the_password(
    guarded: redis_server.Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    place = f"127.0.0.1:{guarded.port}/0/pictures"
    with Queue(0, f"redis://pictures:{SECRET}@{place}", lease=LEASE) as queue:
        queue.put(1)
        assert queue.address == f"redis://pictures@{place}"
        said = [repr(queue), str(queue), repr(queue._place), repr(queue.__reduce__())]  # type: ignore[attr-defined]
    for address in (
        f"redis://pictures:{SECRET}x@{place}",  # a wrong one
        f"redis://nobody:{SECRET}@{place}",
        f"redis://pictures:{SECRET}@127.0.0.1:{guarded.port}/0/others",  # no rights there
        f"redis://pictures:{SECRET}@127.0.0.1:1/0/pictures",  # no server there
    ):
        with pytest.raises((NotAdmitted, QueueLost)) as caught:
            Queue(0, address, lease=LEASE, wait=0.2)
        said.append(str(caught.value))
    for address in (f"redis://pictures:{SECRET}@host/pictures", f"redis://pictures:{SECRET}@host/0/q?x=1"):
        with pytest.raises(AddressError) as wrong:
            Queue(0, address)
        said.append(str(wrong.value))
    said += [record.getMessage() for record in caplog.records]
    assert [text for text in said if SECRET in text] == []


def test_a_password_file_that_cannot_be_read_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(AddressError, match=r"cannot read the password in .*/none: No such file"):
        Queue.connect(f"redis://127.0.0.1/0/q?password-file={tmp_path}/none")


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[redis_server.Server]:
    import trustme

    command = [redis_server.PROGRAM, "--port", "0", "--tls-port", "1"]  # ends for lack of a certificate
    asked = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    if "No tls-cert-file" not in asked.stdout + asked.stderr:
        pytest.skip(f"this {redis_server.PROGRAM} was built without TLS")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    files = [f"--tls-cert-file {tmp_path}/cert.pem", f"--tls-key-file {tmp_path}/key.pem"]
    options = " ".join([*files, f"--tls-ca-cert-file {tmp_path}/ca.pem", "--tls-auth-clients no"])
    server = redis_server.Server(tmp_path)
    server.options = ("--port", "0", "--tls-port", str(server.port), *options.split())
    server.start()
    yield server
    server.kill()


def test_tls_verifies_the_server(tls: redis_server.Server, tmp_path: Path) -> None:
    place = f"rediss://127.0.0.1:{tls.port}/0/q"
    with Queue(0, f"{place}?ca={tmp_path}/ca.pem", lease=LEASE) as queue:
        queue.put("over TLS")
        assert queue.get(timeout=LIMIT) == "over TLS"
    with pytest.raises(NotAdmitted, match="cannot verify who answers at rediss://"):
        Queue(0, place, lease=LEASE)


# -- addresses ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "redis://",
        "redis://host",
        "redis://host/0",
        "redis://host/pictures",
        "redis://host/0/",
        "redis://host/0/a/b",
        "redis://host/0/{x}",
        "redis://host:99999/0/q",
        "redis://host/-1/q",
        "redis://host/0/q?ca=file",
        "redis://host/0/q?nonsense=1",
        "redis://[::1/0/q",
    ],
)
def test_an_address_that_is_wrong_is_refused(address: str) -> None:
    with pytest.raises(AddressError):
        Queue.connect(address)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://host/0/q", "redis://host:6379/0/q"),
        ("valkey://a%40b:p%2Fw@host:7000/3/q.1", "valkey://a%40b@host:7000/3/q.1"),
        ("rediss://[::1]/0/q?ca=/etc/ca.pem", "rediss://[::1]:6379/0/q?ca=/etc/ca.pem"),
    ],
)
def test_an_address_is_read_and_shown(address: str, shown: str) -> None:
    queue = Queue.connect(address)
    assert queue.address == shown
    assert queue._place.password in ("", "p/w")  # type: ignore[attr-defined]
