"""Settings in files and variables: which are in force, where they come from, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nearfar.__main__ import main
from nearfar.cli import PROGRAMS, parser_of
from nearfar.cli.configuration import configurable, no_settings, settings_of, words_of

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write ``nearfar.toml`` into the working directory, or another file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NEARFAR_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))

    def write(text: str, name: str = "nearfar.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)
        return path

    return write


def held(program: str, command: str = "") -> dict[str, tuple[object, str]]:
    settings = settings_of(program, parser_of(program), command.split())
    return {option: (value, place) for option, value, place in settings}


def parsed(program: str, command: str = "") -> object:
    return parser_of(program).parse_args(command.split())


USER = "home/nearfar/nearfar.toml"


def test_the_strongest_place_decides(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    user = write("jobs = 1\nretries = 1\ntimeout = 1\nrate = '1k'\n[producer]\nper-host = 1\n", USER)
    write("jobs = 2\nretries = 2\ntimeout = 2\n[producer]\ntimeout = 3\n")
    monkeypatch.setenv("NEARFAR_JOBS", "4")
    monkeypatch.setenv("NEARFAR_RETRIES", "4")
    monkeypatch.setenv("NEARFAR_PRODUCER_RETRIES", "5")
    monkeypatch.setenv("NEARFAR_WORKER_JOBS", "6")
    assert held("producer") == {
        "jobs": ("4", "NEARFAR_JOBS"),
        "retries": ("5", "NEARFAR_PRODUCER_RETRIES"),
        "timeout": (3, "nearfar.toml [producer]"),
        "per-host": (1, f"{user} [producer]"),
        "rate": ("1k", str(user)),
    }
    options = parsed("producer", "--jobs 7 http://h/")
    assert (options.jobs, options.retries, options.timeout, options.rate) == (7, 5, 3.0, 1000)


@pytest.mark.parametrize("named", ["option", "joined option", "variable"])
def test_a_named_file_takes_the_place_of_both(
    named: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("lease = 20\n", USER)
    write("lease = 30\n")
    other = write("maxsize = 5\n", "other.toml")
    if named == "variable":
        monkeypatch.setenv("NEARFAR_CONFIG", "other.toml")
    command = {"option": "--config other.toml", "joined option": "--config=other.toml", "variable": ""}[named]
    assert held("queue", command) == {"maxsize": (5, other.name)}
    assert parsed("queue", command).maxsize == 5


def test_an_empty_variable_reads_no_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("lease = 30\n")
    monkeypatch.setenv("NEARFAR_CONFIG", "")
    assert held("queue") == {}


def test_a_setting_of_another_program_does_nothing(write: Write) -> None:
    write("jobs = 3\n[producer]\nretries = 2\n")
    assert held("queue") == {}
    assert held("consumer") == {}


@pytest.mark.parametrize("command", ["--bind tcp://127.0.0.1:1", "--bind", "-q --bind=tcp://127.0.0.1:1"])
def test_an_option_outweighs_settings_that_it_excludes(command: str, write: Write) -> None:
    write("queue = 'tcp://h:1'\nkeys = 'k'\n")
    assert parsed("consumer", command).queue is None
    assert parsed("consumer", command).keys == "k"
    assert parsed("consumer", "--no-keys").keys is None


def test_a_stronger_setting_outweighs_a_weaker_one_that_it_excludes(write: Write) -> None:
    write("queue = 'tcp://h:1'\n", USER)
    write("[consumer]\nbind = 'tcp://127.0.0.1:7'\n")
    assert held("consumer").keys() == {"bind"}


def test_options_that_exclude_each_other_in_one_place_are_refused(
    write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write("[consumer]\nbind = 'tcp://127.0.0.1:7'\nqueue = 'tcp://h:1'\n")
    assert refused("consumer", capsys).startswith(
        "nearfar consumer: --queue: not allowed with argument --bind"
    )


def test_options_that_may_be_repeated_add_up(write: Write) -> None:
    write("header = ['A: 1', 'B: 2']\n[worker]\nplain = ['json', 'os:getcwd']\n")
    assert parsed("producer", "-H C:3").header == [("A", "1"), ("B", "2"), ("C", "3")]
    assert parsed("worker", "--plain math").plain == ["json", "os:getcwd", "math"]


def test_flags_are_true_or_false(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("decode = true\nverbose = false\n")
    assert parsed("producer", "http://h/").decode
    monkeypatch.setenv("NEARFAR_DECODE", "no")
    monkeypatch.setenv("NEARFAR_OVERWRITE", "Yes")
    options = parsed("producer", "http://h/")
    assert (options.decode, options.overwrite) == (False, True)


def test_an_option_with_an_optional_value_takes_true(write: Write) -> None:
    write("[producer]\nbind = true\n")
    options = parsed("producer", "http://h/")
    assert (options.bind, options.urls) == ("tcp://127.0.0.1:5555", ["http://h/"])


def refused(program: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        parser_of(program).parse_args(words)
    out, err = capsys.readouterr()
    assert (ended.value.code, out, err.count("\n")) == (2, "", 1)
    return err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[queue]\nleas = 3\n", "nearfar.toml: queue has no setting 'leas' (did you mean lease?)"),
        ("leas = 3\n", "nearfar.toml: no program has a setting 'leas' (did you mean lease?)"),
        ("[qeue]\nlease = 3\n", "nearfar.toml: there is no program 'qeue' (did you mean queue?)"),
        ("[queue]\nhelp = true\n", "nearfar.toml: queue has no setting 'help'"),
        ("lease = 0\n", "nearfar.toml: lease: '0' is not a number of seconds above 0"),
        ("lease = [1]\n", "nearfar.toml: lease cannot be [1]"),
        ("lease = true\n", "nearfar.toml: lease cannot be True"),
        ("log-format = 'xml'\n", "nearfar.toml: log-format: 'xml' is none of text, json"),
        ("quiet = 'yes'\n", "nearfar.toml: quiet is true or false, not 'yes'"),
        ("lease = \n", "cannot use nearfar.toml: Invalid value (at line 1, column 9)"),
        ("\ufeff\x00", "cannot use nearfar.toml: "),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(
    text: str, said: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write(text)
    line = refused("queue", capsys)
    assert line.startswith(f"nearfar queue: {said}")
    assert line.endswith("; see nearfar config\n")
    assert main(["config"]) == 2
    assert capsys.readouterr().err.startswith("nearfar config: ")


def test_a_wrong_variable_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEARFAR_QUIET", "maybe")
    assert "NEARFAR_QUIET: quiet is true or false, not 'maybe'" in refused("queue", capsys)


def test_a_file_that_others_can_change_is_refused(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write("lease = 30\n")
    path.chmod(0o664)
    assert "other users can change it" in refused("queue", capsys)
    path.unlink()
    os.mkfifo(path)
    assert "it is not a regular file" in refused("queue", capsys)
    assert "cannot read none.toml: No such file or directory" in refused(
        "queue", capsys, "--config", "none.toml"
    )
    assert "it is larger than 1,000,000 bytes" in refused(
        "queue", capsys, "--config", str(write("#" * 1_000_001, "big"))
    )


def test_the_command_shows_what_holds_and_where_it_comes_from(
    write: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write("lease = 30\n[producer]\nheader = ['Authorization: secret']\nproxy = 'http://me:secret@h:1'\n")
    monkeypatch.setenv("NEARFAR_JOBS", "3")
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    assert "secret" not in out
    assert out.startswith("# files: nearfar.toml\n\n[producer]\n")
    assert re.search(r'^jobs = "3" +# NEARFAR_JOBS$', out, re.MULTILINE)
    assert 'header = ["Authorization:..."]' in out
    assert 'proxy = "http://...@h:1"' in out
    assert "[queue]\nlease = 30  # nearfar.toml\n" in out

    assert main(["config", "queue"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("maxsize = 0 ") and line.endswith("# default") for line in lines)

    assert main(["config", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["files"] == ["nearfar.toml"]
    assert said["settings"]["queue"] == {"lease": {"value": 30, "from": "nearfar.toml"}}


@pytest.mark.parametrize("program", ["demo", "contrast"])
def test_programs_that_show_nearfar_itself_take_no_settings(
    program: str, write: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write("output = 'elsewhere'\njobs = 1\n")
    monkeypatch.setenv("NEARFAR_OUTPUT", "elsewhere")
    monkeypatch.setenv("NEARFAR_JOBS", "2")
    monkeypatch.setenv("NEARFAR_KEYS", "keys")
    monkeypatch.setenv("NEARFAR_SHARED_MEMORY", "0")
    assert parsed(program) == parsed(program, "--color auto")
    assert "elsewhere" not in str(parsed(program))
    assert held("producer")["jobs"] == ("2", "NEARFAR_JOBS")
    with no_settings():
        assert held("producer") == {}
        assert "NEARFAR_KEYS" not in os.environ
        assert os.environ["NEARFAR_SHARED_MEMORY"] == "0"
    assert held("producer")["keys"] == ("keys", "NEARFAR_KEYS")
    assert main(["config", program]) == 0
    assert capsys.readouterr().out == f"# files: nearfar.toml\n# {program} takes no settings\n"
    write(f"[{program}]\noutput = 'elsewhere'\n")
    assert main(["config"]) == 2
    assert capsys.readouterr().err == f"nearfar config: nearfar.toml: {program} takes no settings\n"


@pytest.mark.parametrize("program", PROGRAMS)
def test_what_the_command_shows_of_a_program_is_a_file_that_it_takes(
    program: str, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its defaults, as settings, change nothing."""
    assert main(["config", program]) == 0
    before = capsys.readouterr().out
    write(before)
    assert main(["config", program]) == 0
    after = capsys.readouterr().out
    parser = parser_of(program)
    if getattr(parser, "configurable", False):
        words_of(parser, settings_of(program, parser, []))
        assert before.count("\n") == after.count("\n") > len(configurable(parser)) - 5


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_are_scripts_that_the_shell_can_read(
    shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("shtab")
    assert main(["completions", shell]) == 0
    script = capsys.readouterr().out
    assert all(program in script for program in [*PROGRAMS, "help"])
    assert "per-host" in script
    if shutil.which(shell):
        (tmp_path / "script").write_text(script, encoding="utf-8")
        subprocess.run([shell, "-n", tmp_path / "script"], check=True, timeout=90)


def test_bash_completes_programs_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    main(["completions", "bash"])
    ask = """
    COMP_WORDS=({words}); COMP_CWORD={place}; COMP_LINE="{words}"; COMP_POINT=${{#COMP_LINE}}
    $(complete -p nearfar | sed -E 's/.*-F ([^ ]+).*/\\1/') nearfar; echo "${{COMPREPLY[@]}}"
    """
    script = capsys.readouterr().out
    for words, place, expected in [("nearfar pro", 1, "producer"), ("nearfar queue --maxb", 2, "--maxbytes")]:
        asked = script + ask.format(words=words, place=place)
        done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, timeout=90, check=True)
        assert done.stdout.split() == [expected], done.stderr
