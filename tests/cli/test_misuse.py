"""Every program, used wrongly in every way that a table can hold: it reports the error in one line, and ends.

In this process, where a program takes milliseconds; what needs streams of its own is at the end.
"""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

from nearfar import __version__
from nearfar.__main__ import PROGRAMS, main
from nearfar.cli.exits import Exit
from nearfar.cli.options import byte_count, lease_seconds, natural, positive, seconds
from tests.support.shell import LIMIT, ROOT

NOBODY = "--wait 0.05"
NOWHERE = "tcp://127.0.0.1:1"
COMMANDS = {
    "queue": "queue --bind {}",
    "coordinator": "coordinator --bind {}",
    "status": f"coordinator {NOBODY} --status {{}}",
    "worker": f"worker {NOBODY} --processes 1 --connect {{}}",
    "consumer": f"consumer {NOBODY} --queue {{}}",
    "hosting consumer": "consumer --bind {}",
    "producer": f"producer {NOBODY} http://127.0.0.1:9/x --queue {{}}",
    "hosting producer": "producer http://127.0.0.1:9/x --bind {}",
    "pool's producer": f"producer {NOBODY} http://127.0.0.1:9/x --queue {NOWHERE} --pool {{}}",
    "gallery": "gallery --bind {}",
}
"""The places of a command line where an address stands."""
CONNECTING = ("status", "worker", "consumer", "producer", "pool's producer")
KEYED = ("queue", "coordinator", "status", "worker", "consumer", "producer")

Outcome = tuple[int, str, str]
Run = Callable[[str], Outcome]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Run a command line in a folder with a few files; returns exit code and output."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x\n")
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 10)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEARFAR_KEYS", raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(line: str) -> Outcome:
        try:
            code = main(shlex.split(line))
        except SystemExit as left:
            code = int(left.code or 0)
        return int(code), *capsys.readouterr()

    yield run
    root.handlers[:], root.level = handlers, level


def complaint(outcome: Outcome, code: Exit, program: str) -> str:
    """The last line of a program's output before it ended with `code`, without its name."""
    assert outcome[0] == code, outcome
    said = outcome[2].splitlines()
    assert "Traceback" not in outcome[2]
    begin = f"nearfar {program}"
    (line,) = (line for line in said if line.startswith(begin))
    return line.removeprefix(begin).partition(": ")[2]


def usage_error(outcome: Outcome, program: str) -> str:
    """As `complaint`, of a wrong command line: nothing but one line, which names the help."""
    said = complaint(outcome, Exit.USAGE, program)
    assert outcome[1:] == ("", outcome[2]) and outcome[2].count("\n") == 1
    error, separator, where = said.rpartition("; see nearfar ")
    assert separator and where.startswith(program) and where.endswith(" --help")
    return error


# -- the command line itself -----------------------------------------------------------------------


def test_without_a_program_it_shows_the_help_and_the_usage_exit_code(run: Run) -> None:
    code, out, err = run("")
    assert (code, out) == (Exit.USAGE, "")
    assert err.startswith("usage: nearfar PROGRAM")
    assert all(f"\n  {name} " in err for name in PROGRAMS)


@pytest.mark.parametrize("line", ["nonsense", "--nonsense", "-", "--", "'two words'"])
def test_an_unknown_program_is_an_error_that_lists_the_programs(run: Run, line: str) -> None:
    code, out, err = run(line)
    assert (code, out, err.count("\n")) == (Exit.USAGE, "", 1)
    assert err.startswith("nearfar: there is no program ")
    assert all(name in err for name in PROGRAMS)


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("Queue", "queue"),
        ("prodcuer", "producer"),
        ("coordinate", "coordinator"),
        ("verfy", "verify"),
        ("hlep", "help"),
    ],
)
def test_a_mistyped_program_is_an_error_that_names_the_meant_one(run: Run, word: str, meant: str) -> None:
    said = f"nearfar: there is no program {word!r} (did you mean {meant}?); see nearfar --help\n"
    assert run(word) == (Exit.USAGE, "", said)


COMMANDS_WITH_HELP = [*PROGRAMS, *(f"keys {command}" for command in ("init", "add", "revoke", "list"))]


@pytest.mark.parametrize("name", COMMANDS_WITH_HELP)
def test_every_program_has_help(run: Run, name: str) -> None:
    for line in (f"{name} -h", f"{name} --help", f"help {name}"):
        code, out, err = run(line)
        assert (code, err) == (Exit.OK, "")
        assert out.startswith(f"usage: nearfar {name} ")


@pytest.mark.parametrize("line", ["help", "help --help", "-h", "--help"])
def test_help_alone_lists_the_programs(run: Run, line: str) -> None:
    code, out, err = run(line)
    assert (code, err) == (Exit.OK, "")
    assert out.startswith("usage: nearfar PROGRAM")


def test_help_on_an_unknown_program_is_a_usage_error(run: Run) -> None:
    assert run("help consummer")[::2] == (
        Exit.USAGE,
        "nearfar: there is no program 'consummer' (did you mean consumer?); see nearfar --help\n",
    )


@pytest.mark.parametrize("name", COMMANDS_WITH_HELP)
def test_every_program_tells_the_version(run: Run, name: str) -> None:
    for flag in ("-V", "--version"):
        assert run(f"{name} {flag}") == (Exit.OK, f"nearfar {__version__}\n", "")


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_help_fits_the_terminal(run: Run, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in COMMANDS_WITH_HELP:
        lines = run(f"{name} --help")[1].splitlines()
        assert [line for line in lines if len(line) > min(columns, 100)] == []
    assert all(len(line) <= 80 for line in run("--help")[1].splitlines())


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_option_stands_in_a_group_with_its_default_and_every_help_has_examples(
    run: Run, name: str
) -> None:
    parser: argparse.ArgumentParser = import_module(f"nearfar.cli.{name}").make_parser()
    ungrouped = {option for action in parser._optionals._group_actions for option in action.option_strings}
    assert ungrouped - {"--config"} == {"-h", "--help", "-V", "--version"}
    out = " ".join(run(f"{name} --help")[1].split())
    assert f"examples: nearfar {name}" in out
    for action in parser._actions:
        if (
            action.option_strings
            and argparse.SUPPRESS not in (action.help, action.default)
            and type(action.default) in (int, float, str)
        ):
            assert str(action.default) in out and "default: " in out, action


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_example_of_the_help_is_a_valid_command_line(run: Run, name: str, tmp_path: Path) -> None:
    (tmp_path / "thumbnails.py").touch()
    lines = run(f"{name} --help")[1].partition("\nexamples:\n")[2].split("\n\n")[0].splitlines()
    assert lines
    for line in lines:
        program, *words = shlex.split(line.partition("<")[0].partition(">")[0])[1:]
        assert program == name
        import_module(f"nearfar.cli.{name}").make_parser().parse_args(words)


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("words", ["--nonsense", "-Z", "--log-format xml", "--no-keys --keys x --nonsense"])
def test_a_wrong_flag_is_a_usage_error(run: Run, name: str, words: str) -> None:
    assert usage_error(run(f"{name} {words}"), name)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("producer --jbos 3", "there is no option --jbos (did you mean --jobs?)"),
        ("producer --job=3", "there is no option --job (did you mean --jobs?)"),
        ("verify --repiar", "there is no option --repiar (did you mean --repair?)"),
        ("producer -j x", "-j/--jobs: 'x' is not a whole number of at least 1, and at most 1,000,000,000"),
        ("queue --insecur", "there is no option --insecur"),
        ("queue here", "unexpected argument 'here'"),
        ("queue --log-format jsn", "--log-format: 'jsn' is none of text, json (did you mean json?)"),
        ("queue --no-keys --keys x", "--keys: not allowed with argument --no-keys"),
        ("keys lst", "COMMAND: 'lst' is none of init, add, revoke, list (did you mean list?)"),
        ("keys list --kyes x", "there is no option --kyes (did you mean --keys?)"),
        (
            "contrast --only quue",
            "--only: 'quue' is none of queue, faults, download, pool (did you mean queue?)",
        ),
        ("verify x --repiar", "there is no option --repiar (did you mean --repair?)"),
        ("worker '--\x1b[2J'", "there is no option --\\x1b[2J"),
    ],
)
def test_a_wrong_line_is_reported_in_one_line_with_what_was_meant(run: Run, line: str, said: str) -> None:
    assert usage_error(run(line), line.split()[0]) == said


def test_a_missing_argument_is_named(run: Run) -> None:
    said = usage_error(run("verify --repair"), "verify")
    assert said in [f"the following arguments are required: {names}" for names in ("LIST", "LIST, DIR")], (
        "Python before 3.15 names arguments that may be left out, too"
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_has_a_service_in_a_clone(name: str) -> None:
    text = (ROOT / "services" / f"{name}.py").read_text()
    assert f'run(["{name}", *sys.argv[1:]])' in text


# -- values ----------------------------------------------------------------------------------------

WRONG = [
    "",
    "x",
    "-1",
    "1.5.5",
    "nan",
    "inf",
    "1e400",
    "9" * 30,
    "9" * 5000,
    "²",
    "0x10",
    "\udcff",
    "5 5",
    "1,000",
]
TYPED = {
    (name, flag): action
    for name in PROGRAMS
    for action in import_module(f"nearfar.cli.{name}").make_parser()._actions
    for flag in action.option_strings[-1:]
    if action.type in (positive, natural, seconds, lease_seconds, byte_count)
}


@pytest.mark.parametrize(("name", "flag"), TYPED)
def test_an_invalid_number_is_a_usage_error(name: str, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser: argparse.ArgumentParser = import_module(f"nearfar.cli.{name}").make_parser()
    for value in WRONG:
        with pytest.raises(SystemExit) as left:
            parser.parse_args([f"{flag}={value}"])
        assert left.value.code == Exit.USAGE
        (last,) = capsys.readouterr().err.splitlines()
        assert last.startswith(f"nearfar {name}: ") and f"{flag}: " in last
        assert " is not a " in last
        assert len(last) < 250


def test_every_number_has_one_of_the_checked_types() -> None:
    assert len(TYPED) > 20
    for name in PROGRAMS:
        for action in import_module(f"nearfar.cli.{name}").make_parser()._actions:
            assert action.type not in (int, float), action


@pytest.mark.parametrize(
    ("convert", "text", "value"),
    [
        (positive, "1", 1),
        (positive, "1000000000", 10**9),
        (natural, "0", 0),
        (seconds, "0.25", 0.25),
        (seconds, "1000000", 1e6),
        (lease_seconds, "10", 10.0),
        (byte_count, "0", 0),
        (byte_count, "1.5k", 1500),
        (byte_count, "1TiB", 1 << 40),
    ],
)
def test_numbers_at_the_bounds_are_accepted(convert: Callable[[str], float], text: str, value: float) -> None:
    assert convert(text) == value


# -- addresses -------------------------------------------------------------------------------------

UNREADABLE = [
    "5555", "''", "tcp://", "tcp://x", "tcp://127.0.0.1", "tcp://127.0.0.1:99999", "tcp://127.0.0.1:-1",
    "tcp://127.0.0.1:x", "http://x:1", "ipc://", f"ipc://{'x' * 200}", "tcp://[::1:5", "'tcp://a b:1'", "tcp://:5",
]  # fmt: skip


@pytest.mark.parametrize("place", [place for place in COMMANDS if place != "gallery"])
def test_an_invalid_address_is_reported(run: Run, place: str) -> None:
    for address in UNREADABLE:
        line = COMMANDS[place].format(address)
        said = complaint(run(line), Exit.USAGE, line.split()[0])
        assert said


@pytest.mark.parametrize("place", ["queue", "coordinator", "hosting consumer", "hosting producer"])
def test_an_address_that_cannot_be_bound_is_reported(run: Run, place: str) -> None:
    program = COMMANDS[place].split()[0]
    for address in (
        "ipc:///nowhere/at/all",
        "ipc://folder",
        "ipc://file",
        "tcp://0.0.0.0:*",
        "tcp://192.0.2.1:*",
    ):
        assert complaint(run(COMMANDS[place].format(address)), Exit.USAGE, program)


@pytest.mark.parametrize("place", CONNECTING)
def test_a_missing_peer_is_reported_with_exit_code_lost(run: Run, place: str) -> None:
    program = COMMANDS[place].split()[0]
    for address in (NOWHERE, "ipc://none"):
        assert "answered at" in complaint(run(COMMANDS[place].format(address)), Exit.LOST, program)


# -- keys and files --------------------------------------------------------------------------------


@pytest.mark.parametrize("place", KEYED)
@pytest.mark.parametrize("keys", ["nowhere", "file", "folder", "binary", "/etc/passwd", "/dev/null"])
def test_an_invalid_folder_of_keys_is_reported(run: Run, place: str, keys: str) -> None:
    program = COMMANDS[place].split()[0]
    line = COMMANDS[place].format("tcp://127.0.0.1:5")
    assert complaint(run(f"{line} --keys {keys}"), Exit.USAGE, program)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("revoke nobody --keys mine", "mine admits no client named nobody: "),
        ("revoke nobody --keys nowhere", "there is no folder nowhere"),
        ("revoke x --keys file", "there is no folder file"),
        ("list --keys file", ""),
        ("list --keys nowhere", ""),
        ("add x", ""),
        ("add x --keys file", ""),
        ("add ../x", "is not a name"),
        ("add ''", "is not a name"),
        ("add x --public nowhere", ""),
        ("add x --public folder", ""),
        ("add x --public binary", ""),
        ("init --server nowhere", ""),
        ("init --server folder", ""),
        ("init --server binary", ""),
        ("init --keys file", ""),
        ("init --keys file/x", ""),
        ("init --keys /proc/x", ""),
    ],
)
def test_keys_that_cannot_be_made_or_read_are_reported(run: Run, words: str, said: str) -> None:
    if "mine" in words:
        assert run("keys init --keys mine")[0] == Exit.OK
    keys = "" if "--keys" in words else " --keys folder"
    assert said in complaint(run(f"keys {words}{keys}"), Exit.USAGE, "keys")


@pytest.mark.parametrize("words", ["", "revoke", "add", "nonsense", "list extra", "init extra"])
def test_an_incomplete_keys_command_is_a_usage_error(run: Run, words: str) -> None:
    assert usage_error(run(f"keys {words}"), "keys")


@pytest.mark.parametrize(
    "line",
    [
        "verify nowhere folder",
        "verify folder folder",
        "verify binary folder",
        "verify file folder",
        "verify file nowhere",
        "verify file file",
        "verify http://127.0.0.1:9/x folder",
        "verify http://[::1/x folder",
        "verify http://x\x7f/ folder",
        "consumer -o file --export csv -",
        "consumer -o file",
        "consumer -o file/x",
        "consumer -o /proc/x",
        "consumer -o folder --export csv nowhere/x",
        "consumer -o folder --export csv folder",
        "producer -i nowhere",
        "producer",
        "producer x -i file",
        "producer http://h/x --cacert nowhere",
        "producer http://h/x --header @nowhere",
        "producer http://h/x --header @binary",
        "producer http://h/x --header x",
        "producer http://h/x --queue local",
        "producer http://h/x -o folder",
        "producer http://h/x --queue local -o file",
        "worker --plain no_such_module",
        "worker --plain ''",
        "worker --plain os:system:x",
        "coordinator --plain os",
        "contrast -o folder",
        "contrast -o nowhere/x",
        "contrast --json folder",
        "contrast --only nothing",
        "demo -o file",
        "demo -o file/x",
        "gallery --bind 127.0.0.1",
        "gallery --bind 192.0.2.1:80",
        "queue --lanes x",
        "queue --lanes 5-4",
        "queue --lanes 1-70000",
    ],
)
def test_unusable_files_and_folders_are_reported(run: Run, line: str) -> None:
    code, _, err = run(line)
    assert code == Exit.USAGE, err
    assert "Traceback" not in err
    assert err.strip()
    assert err.count("\n") == 1
    assert not (Path("nowhere")).exists()


# -- streams ---------------------------------------------------------------------------------------


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT)}
"""With buffers: without, argparse itself says nothing of a help text that could not be written."""


def start(line: str, stdout: int, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nearfar", *shlex.split(line)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        **options,  # type: ignore[call-overload]
    )


def closed_pipe() -> int:
    """A standard output as in `nearfar ... | true`."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


@pytest.mark.parametrize("line", ["-h", "-V", "queue -h", "keys list --keys mine"])
@pytest.mark.parametrize("where", ["a closed pipe", "/dev/full"])
def test_an_output_that_cannot_be_written_is_reported(run: Run, line: str, where: str) -> None:
    assert run("keys init --keys mine")[0] == Exit.OK
    stdout = closed_pipe() if where == "a closed pipe" else os.open("/dev/full", os.O_WRONLY)
    with start(line, stdout) as program:
        os.close(stdout)
        _, err = program.communicate(timeout=LIMIT)
    assert program.returncode == Exit.FAILED
    assert err.count("\n") == 1, err
    assert "standard output" in err


@pytest.mark.parametrize("line", ["", "-h", "queue -h", "keys list --keys nowhere"])
def test_without_any_open_stream_it_ends_with_the_same_code(run: Run, line: str) -> None:
    code = run(line)[0]
    words = [sys.executable, "-m", "nearfar", *shlex.split(line)]
    shell = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *words]
    assert subprocess.run(shell, timeout=LIMIT, env=ENVIRONMENT).returncode == code


def test_a_name_that_is_not_valid_text_is_shown_and_used(run: Run) -> None:
    folder = os.fsdecode(b"keys-\xff")
    with start(f"keys init --keys '{folder}'", subprocess.PIPE) as program:
        out, err = program.communicate(timeout=LIMIT)
    assert (program.returncode, err) == (Exit.OK, "")
    assert "keys-\\udcff" in out
    assert Path(folder).is_dir()


@pytest.mark.parametrize("program", ["consumer", "worker", "producer"])
def test_ctrl_c_ends_the_wait_for_a_host_without_a_traceback(run: Run, program: str) -> None:
    line = COMMANDS[program].replace(NOBODY, "--wait 30").format("ipc://none")
    with start(line, subprocess.PIPE, process_group=0) as started:
        said = started.stdout if program == "worker" else started.stderr
        assert said is not None
        assert said.readline()
        os.killpg(started.pid, signal.SIGINT)
        _, err = started.communicate(timeout=LIMIT)
    assert started.returncode == (Exit.OK if program == "worker" else Exit.INTERRUPTED)
    assert "Traceback" not in err
