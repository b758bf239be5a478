"""Finds the places in a syntax tree at which pickles may be read, under any name or alias.

Three kinds of places: *readers*, which unpickle by themselves and belong into one package; *pipes* of
`multiprocessing` and its like, which unpickle what comes through them; and uses of *our own* readers. Also
code that is made of text, and modules that are imported by a name in a text: those might be any of these.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


READERS = _words(
    """
    pickle _pickle cPickle pickle5 _compat_pickle pickletools copyreg copy_reg cloudpickle dill
    marshal shelve joblib jsonpickle srsly klepto zodbpickle torch keras sklearn pandas numpy.load
    numpy.lib.npyio yaml ruamel.yaml logging.config xmlrpc Pyro4 Pyro5 rpyc execnet celery
    """
)
"""Modules and functions that read pickles, or can be told to; with all below them."""

PIPES = _words(
    """
    multiprocessing.reduction multiprocessing.managers multiprocessing.resource_sharer
    multiprocessing.spawn multiprocessing.queues multiprocessing.connection multiprocessing.pool
    multiprocessing.forkserver multiprocessing.Queue multiprocessing.JoinableQueue
    multiprocessing.SimpleQueue multiprocessing.Pipe multiprocessing.Pool multiprocessing.Manager
    multiprocessing.Process multiprocessing.dummy multiprocessing.context
    multiprocessing.get_context concurrent.futures.ProcessPoolExecutor concurrent.futures.process
    concurrent.interpreters _interpreters _xxsubinterpreters _multiprocessing
    """
)
"""What unpickles what comes through it, or makes such things; with all below."""

HARMLESS = _words(
    """
    multiprocessing.connection.wait multiprocessing.context.BaseContext
    multiprocessing.pool.RemoteTraceback multiprocessing.pool.MaybeEncodingError
    """
)
"""Among those, what reads nothing."""

MAKERS = frozenset(
    {"Queue", "JoinableQueue", "SimpleQueue", "Pipe", "Pool", "Manager", "Process", "Listener", "Client"}
)
"""Methods of `multiprocessing` and of its contexts."""
METHODS = frozenset({"recv_pyobj", "recv_serialized", "read_pickle", "find_class", "persistent_load"})

OURS = _words(
    """
    nearfar.serialization.pickles.pickler.loads nearfar.serialization.pickles.calls.CallLoader
    nearfar.serialization.pickles.results.load_result nearfar.serialization.pickles.results.load_error
    nearfar.serialization.pickles.by_value.load_by_value nearfar.serialization.pickles.by_value.KnownClasses
    nearfar.serialization.pickles.main_module.Namespace nearfar.serialization.item_codec.decode
    """
)
"""Our own readers."""

BUILTINS = frozenset({"exec", "eval", "compile", "__import__"})
IMPORTERS = _words(
    """
    import_module __import__ run_path run_module spec_from_file_location exec_module load_module
    SourceFileLoader
    """
)
PACKAGE = "nearfar.serialization.pickles"
"""The one package that reads pickles."""


def places(sources: Mapping[str, str]) -> set[tuple[str, str]]:
    """Module and what it does there, for each place outside that package, in `sources` by module name."""
    return {
        (name, what)
        for name, source in sources.items()
        if not below(name, frozenset({PACKAGE}))
        for what in reads(source)
    }


def reads(source: str) -> set[str]:
    """The uses in a module by which pickles may be read, as text for the list."""
    tree = ast.parse(source)
    names = dict(imported_names(tree))
    found = {full for full in names.values() if stands_for(full)}
    harmless = {id(call.func) for call in calls(tree) if is_harmless(call)}
    for node in ast.walk(tree):
        if id(node) not in harmless:
            found.update(in_node(node, names))
    return found


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def is_harmless(call: ast.Call) -> bool:
    """Whether a call certainly reads no pickle: a socket's `recv`, `codec.decode`."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if name == "recv":
        return bool(call.args)
    told = {keyword.arg: keyword.value for keyword in call.keywords}.get("trusted")
    return name == "decode" and isinstance(told, ast.Constant) and told.value is False


def imported_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Names in a module, and what was imported under them, in full."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def in_node(node: ast.AST, names: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Attribute):
        full = full_name(node, names)
        if full and stands_for(full):
            yield full
        elif node.attr in METHODS or node.attr == "recv":
            yield f".{node.attr}()"
    elif isinstance(node, ast.Call):
        yield from in_call(node, names)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and below(node.value, READERS):
        yield repr(node.value)


def in_call(node: ast.Call, names: Mapping[str, str]) -> Iterator[str]:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    if name in IMPORTERS or (name in BUILTINS and isinstance(called, ast.Name)):
        yield f"{name}()"
    if name == "getattr" and node.args and below(full_name(node.args[0], names) or "", MODULES):
        yield "getattr()"
    if any(keyword.arg in ("allow_pickle", "weights_only") for keyword in node.keywords):
        yield f"{name}(allow_pickle)"
    if isinstance(called, ast.Attribute):
        full = full_name(called, names) or ""
        if name in MAKERS and not full.startswith(("queue.", "nearfar.")):
            yield f".{name}()"


def full_name(node: ast.expr, names: Mapping[str, str]) -> str | None:
    """``b.c`` as ``a.b.c`` where ``from a import b`` was said; None for what begins with no import."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        before = full_name(node.value, names)
        if before is None:  # import a.b gives the name "a.b"
            before = dotted(node.value) if dotted(node.value) in names else None
        return None if before is None else f"{before}.{node.attr}"
    return None


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def stands_for(full: str) -> bool:
    """Whether that name is, or is in, code that reads pickles."""
    return not below(full, HARMLESS) and (below(full, READERS) or below(full, PIPES) or below(full, OURS))


MODULES = READERS | PIPES | {PACKAGE, "nearfar.serialization.item_codec", "multiprocessing"}


def below(name: str, places: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:count]) in places for count in range(1, len(parts) + 1))


def sources(root: Path, package: str) -> dict[str, str]:
    """The source of every module in a folder, by its full name."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = [package, *path.relative_to(root).with_suffix("").parts]
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found
