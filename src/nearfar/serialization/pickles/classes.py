"""Classes by value: takes a class apart, and makes a copy that behaves like the original.

cloudpickle makes a class without its slots, runs the metaclass and `__init_subclass__` of the program again,
and makes the members of an enum without the attributes that its `__init__` set. Here a class is first made
empty (its *skeleton*, which has its slots), and then gets its attributes (its *state*): no code of the
program runs.
"""

from __future__ import annotations

import abc
import contextlib
import enum
import types
import typing
from collections.abc import Callable
from types import FunctionType, GetSetDescriptorType, MemberDescriptorType
from typing import Any, cast

from cloudpickle import cloudpickle as internals

from nearfar.serialization.names import MAINS

Reduced = tuple[Any, ...]

_PLAIN_INIT = {object, typing.Generic, typing.Protocol, enum.Enum}
"""Classes whose `__init_subclass__` only sets attributes of the class."""
_MADE_WITH_IT = frozenset(
    {"__slots__", "__module__", "__qualname__", "__dict__", "__weakref__", "_abc_impl", "__annotate_func__"}
)
"""Attributes that a class has from its creation on."""
_TYPED_DICT: type = type(typing.TypedDict("_AnyTypedDict", {}))  # type: ignore[operator]
_SINGULAR = (type(None), type(...), type(NotImplemented))
_MEMBERS = "<members>"
"""The key, in the state of an enum, of the attributes of its members."""
_MADE_BY_ENUM = (
    "_generate_next_value_",
    "_member_names_",
    "_member_map_",
    "_member_type_",
    "_value2member_map_",
    "_unhashable_values_",
    "_unhashable_values_map_",
    "_hashable_values_",
    "_new_member_",
    "_use_args_",
    "_value_repr_",
    "_flag_mask_",
    "_singles_mask_",
    "_all_bits_",
    "_boundary_",
    "_inverted_",
)


def by_name(thing: Any) -> bool:
    """Whether a class or a function is found in its module, which is not the program's own."""
    return thing.__module__ not in MAINS and bool(internals._should_pickle_by_reference(thing))


def is_of_the_language(kind: type) -> bool:
    """Whether `kind` is a type such as that of None, which is in no module under its own name."""
    return kind in _SINGULAR or kind in internals._BUILTIN_TYPE_NAMES


METHODS = (FunctionType, staticmethod, classmethod, property)
"""Attributes with the program's code; the other attributes of a class are data."""


def tracker_id(kind: type) -> str:
    """The id of a class that is sent by value, the same in every process that receives it."""
    return cast(str, internals._get_or_create_tracker_id(kind))


def tracked(identity: str) -> type | None:
    """The class with that id, if it was received here or was sent from here."""
    return cast("type | None", internals._DYNAMIC_CLASS_TRACKER_BY_ID.get(identity))


def track(identity: str, kind: type) -> type:
    """Register `kind` as the class with that id. Returns the class that is registered."""
    return cast(type, internals._lookup_class_or_track(identity, kind))


def is_tracked(kind: type) -> bool:
    """Whether a class has an id."""
    return kind in internals._DYNAMIC_CLASS_TRACKER_BY_CLASS


def reduce_class(kind: type) -> Reduced:
    """The reduction of a complete class: the maker of its skeleton, its arguments, the state, its setter."""
    make, arguments = skeleton_of(kind)
    return make, arguments, state_of(kind), None, None, set_class_state


def skeleton_of(kind: type) -> Reduced:
    """The function that makes the skeleton of `kind`, and its arguments: the last is the class's id."""
    namespace: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    if isinstance(kind, enum.EnumMeta):
        raw: Any = kind._member_type_  # type: ignore[attr-defined]
        members = {
            name: (member.value, raw(member) if raw in (int, float, bytes) else member.value)
            for name, member in _members(kind)
        }
        return make_enum, (type(kind), kind.__name__, kind.__bases__, namespace, members, tracker_id(kind))
    if "__slots__" in vars(kind):
        namespace["__slots__"] = _slots_of(kind)
    bases = kind.__bases__
    if "__orig_bases__" in vars(kind):
        namespace["__orig_bases__"] = vars(kind)["__orig_bases__"]
    quiet = any(
        "__init_subclass__" in vars(base) and base not in _PLAIN_INIT and not by_name(base)
        for base in kind.__mro__[1:]
    )
    return make_class, (type(kind), kind.__name__, bases, namespace, quiet, tracker_id(kind))


def state_of(kind: type) -> dict[str, Any]:
    """The attributes of `kind` that its skeleton lacks."""
    attributes: dict[str, Any] = internals._extract_class_dict(kind)
    for name, value in list(attributes.items()):
        if name in _MADE_WITH_IT or isinstance(value, MemberDescriptorType | GetSetDescriptorType):
            del attributes[name]
    if isinstance(kind, abc.ABCMeta):
        # The registered classes, but not the cache of checks.
        attributes["_abc_impl"] = [each() for each in internals.abc._get_dump(kind)[0]]
    if isinstance(kind, enum.EnumMeta):
        for name in (*_MADE_BY_ENUM, *kind.__members__):
            attributes.pop(name, None)
        attributes[_MEMBERS] = {name: dict(vars(member)) for name, member in _members(kind)}
    return attributes


def _members(kind: enum.EnumMeta) -> list[tuple[str, Any]]:
    return list(kind.__members__.items())


def make_class(
    metaclass: type,
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    quiet: bool,
    identity: str,
) -> type:
    """The skeleton of a class. `quiet`: do not run the `__init_subclass__` of its bases again."""
    make = _constructor(metaclass)
    if metaclass is _TYPED_DICT:  # whose classes have another base than they are made with
        bases = types.resolve_bases(namespace["__orig_bases__"])
    for first in (_Quiet, _QuietWithAttributes) if quiet else ():
        with contextlib.suppress(TypeError):  # one of them fits the layout of instances
            made = make(metaclass, name, (first, *bases), namespace.copy())
            made.__bases__ = bases
            return track(identity, made)
    return track(identity, make(metaclass, name, bases, namespace))


def make_enum(
    metaclass: Any,
    name: str,
    bases: tuple[type, ...],
    namespace: dict[str, Any],
    members: dict[str, tuple[Any, Any]],
    identity: str,
) -> type:
    """The skeleton of an enum: its members have only their values, without attributes that its code set."""

    def new(cls: Any, *arguments: Any) -> Any:
        value, raw = waiting.pop(0)
        kind = cls._member_type_
        made = object.__new__(cls) if kind is object else kind.__new__(cls, *_arguments(raw))
        made._value_ = value
        return made

    waiting = list(members.values())
    given = metaclass.__prepare__(name, bases)
    for key, value in namespace.items():
        given[key] = value
    given["__new__"] = new
    given["__init__"] = _no_init
    for key, (value, _) in members.items():
        given[key] = enum.member(value)
    made = _constructor(metaclass)(metaclass, name, bases, given)
    type.__delattr__(made, "__init__")
    if vars(made).get("__new_member__") is new:
        type.__delattr__(made, "__new_member__")
    type.__setattr__(made, "_new_member_", made._member_type_.__new__)
    return track(identity, made)


def set_class_state(kind: type, attributes: dict[str, Any]) -> type:
    """Set the attributes that `state_of` returned."""
    attributes = dict(attributes)
    for subclass in attributes.pop("_abc_impl", ()):
        cast(abc.ABCMeta, kind).register(subclass)
    for name, own in attributes.pop(_MEMBERS, {}).items():
        vars(cast(Any, kind)[name]).update(own)
    for name, value in attributes.items():
        type.__setattr__(kind, name, value)
    if "__firstlineno__" in attributes:  # setting other attributes has deleted it
        type.__setattr__(kind, "__firstlineno__", attributes["__firstlineno__"])
    return kind


class _Quiet:
    """The temporary first base of a class that is being made, so that no other `__init_subclass__` runs."""

    __slots__ = ()

    def __init_subclass__(cls, **options: Any) -> None:
        pass


class _QuietWithAttributes:
    def __init_subclass__(cls, **options: Any) -> None:
        pass


def _no_init(self: Any, *arguments: Any) -> None:
    pass


def _arguments(value: Any) -> tuple[Any, ...]:
    return value if type(value) is tuple else (value,)


def _slots_of(kind: type) -> Any:
    slots = vars(kind)["__slots__"]
    if isinstance(slots, str | tuple | list | dict):
        return slots
    return tuple(name for name, value in vars(kind).items() if isinstance(value, MemberDescriptorType))


def _constructor(metaclass: type) -> Callable[..., Any]:
    """The constructor of classes of `metaclass` without the program's code: that of its first base that is
    found by name.
    """
    maker = next(base for base in metaclass.__mro__ if by_name(base))
    return cast(Callable[..., Any], maker.__new__)
