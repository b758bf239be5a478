"""The scheme of an address chooses what is behind it: ``tcp://`` the hosted queue, ``redis://`` Redis.

Other packages add schemes by entry points, in the groups `QUEUES`, `POOLS` and `DOWNLOADS`; the name of an
entry point is the scheme. docs/transports.md shows how to write one.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nearfar.base_errors import AddressError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

QUEUES, POOLS, DOWNLOADS = "nearfar.queues", "nearfar.pools", "nearfar.downloads"

_FAR, _REDIS = "nearfar.queues.far:TRANSPORT", "nearfar.queues.redis.queue:TRANSPORT"
_FAR_DOWNLOAD = "nearfar.download.far_transport:TRANSPORT"
_REDIS_DOWNLOAD = "nearfar.download.redis_transport:TRANSPORT"
_OF_REDIS = ("redis", "rediss", "valkey", "valkeys")
_DASK, _RAY = "nearfar.pool.dask_executor:connect", "nearfar.pool.ray_executor:connect"
_BUILT_IN = {
    QUEUES: {
        "tcp": _FAR,
        "ipc": _FAR,
        **dict.fromkeys(_OF_REDIS, _REDIS),
    },
    POOLS: {
        "tcp": "nearfar.pool.factory:connect_coordinator",
        "ipc": "nearfar.pool.factory:connect_coordinator",
        "dask": _DASK,
        "ray": _RAY,
    },
    DOWNLOADS: {
        "tcp": _FAR_DOWNLOAD,
        "ipc": _FAR_DOWNLOAD,
        **dict.fromkeys(_OF_REDIS, _REDIS_DOWNLOAD),
    },
}
"""What is loaded for each scheme, as ``module:name``, as in an entry point."""
_EXTRAS = {_REDIS: "redis", _REDIS_DOWNLOAD: "redis", _DASK: "dask", _RAY: "ray"}
"""The extra that installs what it needs."""


def load(group: str, address: str) -> Any:
    """What is behind the scheme of `address`: a `Transport` for `QUEUES`, a function for `POOLS`, a
    `RemoteTransport` for `DOWNLOADS`.

    Raises `AddressError` for an unknown scheme, and for one whose package is not installed or cannot be
    imported.
    """
    scheme, separator, _ = address.partition("://")
    place = _BUILT_IN[group].get(scheme if separator else "tcp")  # which says what an address looks like
    if place is not None:
        module, _, name = place.partition(":")
        try:
            return getattr(import_module(module), name)
        except ModuleNotFoundError as error:
            if place not in _EXTRAS or (error.name or "").partition(".")[0] == "nearfar":
                raise
            raise AddressError(
                f"{scheme}:// needs the package {error.name}: pip install 'nearfar[{_EXTRAS[place]}]'"
            ) from None
    added = _added(group)
    if scheme not in added:
        known = ", ".join(sorted({*_BUILT_IN[group], *added}))
        raise AddressError(f"cannot use the address {shown(address)!r}: its scheme is none of {known}")
    try:
        return added[scheme].load()
    except Exception as error:
        raise AddressError(f"{scheme}:// cannot be used: {added[scheme].value} raised {error!r}") from error


def hosted(address: str) -> bool:
    """Whether a program of nearfar is behind `address`, rather than a server or an engine of others."""
    scheme, separator, _ = address.partition("://")
    return not separator or scheme in ("tcp", "ipc")


def shown(address: str) -> str:
    """`address` for messages: a password in it is replaced."""
    scheme, separator, rest = address.partition("://")
    place, at, tail = rest.rpartition("@")
    user, colon, _ = place.partition(":")
    return f"{scheme}{separator}{user}:***@{tail}" if at and colon else address


def _added(group: str) -> dict[str, EntryPoint]:
    from importlib.metadata import entry_points  # a quarter of the time that `import nearfar.Queue` takes

    return {entry.name: entry for entry in entry_points(group=group)}
