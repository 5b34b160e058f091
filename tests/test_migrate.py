"""`memwatch migrate`: memmon's options read as memmon reads them, and said as ours."""

from __future__ import annotations

import getopt
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from servers import ROOT
from superlance import memmon  # type: ignore[import-untyped]
from supervisor.datatypes import RestartUnconditionally
from supervisor.options import ServerOptions

from supervisor_memwatch import cli, config, inifile, migrate, options, units
from supervisor_memwatch.migrate import MigrateError, Rule

sys.path.insert(0, str(ROOT / "bench"))

import memmon as bench

MB = units.MB
SERVER = "[unix_http_server]\nfile = %(here)s/s.sock\n[supervisord]\n"

# superlance's documentation, docs/memmon.rst: its five examples.
DOCUMENTED = [
    "-a 200MB -m bob@example.com",
    "-p foo=200MB -m bob@example.com",
    "-g bar=200MB -m bob@example.com",
    "-p foo=200MB -m bob@example.com -u 2d",
    "-a 200MB -m bob@example.com",
]


def printed(*words: str) -> str:
    """For a command line of memmon's."""
    return migrate.text([migrate.of_command_line(words)], listen="memwatch listen")


def loaded(text: str, tmp_path: Path, rest: str = SERVER) -> config.Config:
    """What is printed, read by the loader of our own."""
    path = tmp_path / "migrated.conf"
    path.write_text(rest + text)
    found = config.load(str(path), {})
    assert found.warnings == ()
    return found


def remarks(text: str) -> str:
    """What will be different, as one line."""
    return " ".join(text.partition("; What will be different:")[2].replace("\n;", " ").split())


def memmons_own(words: list[str]) -> Any:
    """superlance's Memmon with these arguments; None where it prints its help and ends."""
    try:
        return memmon.memmon_from_args(words)
    except SystemExit:
        return None


# -- memmon's options


def test_the_table_of_options_is_memmons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short and long, to the letter."""
    asked: list[Any] = []

    def spy(*words: Any) -> tuple[list[Any], list[Any]]:
        asked.append(words)
        return [], []

    monkeypatch.setattr(memmon.getopt, "getopt", spy)
    memmon.memmon_from_args(["-c"])
    assert asked == [(["-c"], migrate.SHORT, migrate.LONG)]


@pytest.mark.parametrize("letter", [c for c in migrate.SHORT if c != ":"])
def test_every_option_is_migrated_or_named(letter: str) -> None:
    """Under its short name, its long one, and the long one cut short."""
    long = next(
        word for word in migrate.LONG if migrate._SHORT_OF[f"--{word.rstrip('=')}"][1] == letter
    )
    value = {"p": "web=20MB", "g": "web=20MB", "a": "20MB", "u": "2d", "s": "/bin/mail -t"}
    given = value.get(letter, "name") if long.endswith("=") else None
    long = long.rstrip("=")
    ways = [[f"-{letter}", given], [f"--{long}", given], [f"--{long[:2]}", given]]
    if letter == "h":
        for words in ways:
            with pytest.raises(MigrateError, match="-h makes memmon print its help"):
                migrate.parse([word for word in words if word])
        return
    texts = set()
    for words in ways:
        shown = migrate.text(
            [migrate.Found(migrate.parse(["-p", "x=1MB", *(w for w in words if w)]), "memmon")]
        )
        texts.add(shown)
    assert len(texts) == 1
    assert texts != {migrate.text([migrate.Found(migrate.parse(["-p", "x=1MB"]), "memmon")])}


@pytest.mark.parametrize("words", DOCUMENTED)
@pytest.mark.parametrize("cumulative", [[], ["-c"]])
def test_memmons_documented_examples_are_valid_configurations(
    words: str, cumulative: list[str], tmp_path: Path
) -> None:
    """200MB for what memmon would restart, acting; the rest is only watched."""
    found = loaded(printed("memmon", *cumulative, *words.split()), tmp_path)
    assert found.listener is not None and found.listener[0] == "memwatch"
    assert found.options("memmon", "memmon").mode == ("act" if "-a" in words else "observe")
    group, process = ("bar", "any") if "-g" in words else ("foo", "foo")
    got = found.options(group, process)
    assert (got.mode, got.actions) == ("act", options.RUNGS)
    usual = options.Options()
    ceiling = options.Ceiling(bytes=200 * MB)
    assert got.limit == (usual.limit if cumulative else ceiling)
    assert got.total_limit == (ceiling if cumulative else usual.total_limit)


@given(st.text("0123456789kKmMgGbB. _-+", max_size=9))
def test_a_size_is_what_memmon_takes_it_for(text: str) -> None:
    """Or an error: for what memmon refuses, and for the few spellings that can only be mistakes."""
    own = memmons_own(["-a", text])
    try:
        rule = migrate.parse(["-a", text]).rules[0]
    except MigrateError:
        plain = text.lower().removesuffix("b").rstrip("kmg").isdigit()
        assert own is None or own.any <= 0 or not plain
        return
    assert own is not None and rule.bytes == own.any
    # And ours is read as the same.
    assert options.parse("limit", rule.size) == options.Ceiling(bytes=own.any)


NAMES = st.sampled_from(["web", "api", "shop"])
PAIRS = st.sampled_from(["web", "api", "shop:web", "shop:api"])
RULES = st.lists(
    st.one_of(
        st.tuples(st.just("-p"), PAIRS, st.integers(1, 9)),
        st.tuples(st.just("-g"), NAMES, st.integers(1, 9)),
        st.tuples(st.just("-a"), st.just(""), st.integers(1, 9)),
    ),
    min_size=1,
    max_size=5,
)
PROGRAMS = {
    ("web", "web"): "web",
    ("shop", "api"): "api",
    ("shop", "web"): "other",
    ("np", "np_00"): "np",
    ("np", "np_01"): "np",
}


@given(RULES)
def test_each_program_has_the_lowest_size_memmon_compares_it_with(
    rules: list[tuple[str, str, int]],
) -> None:
    """By memmon's own dictionaries, for each process there is; where it has none, none."""
    found = (rule for rule in rules if any(Rule(*rule[:2], "1", "").covers(*p) for p in PROGRAMS))
    rules = list(found)
    assume(rules)
    sized = [(flag, f"{name}={mb}MB" if name else f"{mb}MB") for flag, name, mb in rules]
    words = [word for pair in sized for word in pair]
    own = memmons_own(words)
    sections = migrate.sections(migrate.parse(words).rules, PROGRAMS)
    for (group, process), program in PROGRAMS.items():
        sizes = [own.programs[n] for n in (process, f"{group}:{process}") if n in own.programs]
        sizes += [own.groups[group]] if group in own.groups else []
        sizes += [own.any] if own.any is not None else []
        ours: dict[str, str] = {}
        for name in ("", program, group, f"{group}:{process}"):  # the most exact one last
            ours.update(next((s.limits for s in sections if s.name == name), {}))
        if sizes:
            assert units.parse_size(ours["limit"]) == min(sizes), (group, process)
        else:
            assert not ours, (group, process)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["-p"], "option -p requires argument; memmon's options: -c, -p NAME=SIZE"),
        (["-x"], "option -x not recognized"),
        (["--groupname=bar=200MB"], "option --groupname not recognized"),
        (["-p", "web"], "-p web: valid: NAME=SIZE, such as web=200MB"),
        (["-p", "=200MB"], "-p =200MB: valid: NAME=SIZE"),
        (["-p", "a b=200MB"], "-p a b=200MB: valid: NAME=SIZE"),
        (["-p", "a]\x1b=200MB"], r"valid: NAME=SIZE"),
        (["-p", "a=b=1MB"], "-p a: size b=1MB: valid: a number of bytes"),
        (["-p", "web=200M"], "-p web: size 200M: valid: a number of bytes above 0"),
        (["-g", "a:b=2MB"], "-g a:b: a group has no colon"),
        (["-a", "%(ENV_LIMIT)s"], "-a: size %(ENV_LIMIT)s: valid"),
        (["-a", "0"], "-a: size 0: valid"),
        (["-a", "1MB", "-u", "soon"], "-u soon: valid: 90, 90s"),
        (["-c", "-m", "me@x"], "no -p, -g or -a: it restarts nothing"),
        ([], "no -p, -g or -a"),
    ],
)
def test_a_bad_argument_is_one_clear_error(words: list[str], says: str, capsys: Any) -> None:
    """Status 2; nothing printed, and nothing that a terminal would obey."""
    assert cli.main(["migrate", "--", "memmon", *words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and err.count("\n") == 1 and "\x1b" not in err


def test_what_memmon_refuses_is_refused() -> None:
    """Of the bad arguments above, and never the other way round for good ones."""
    for words in (["-x"], ["-p"], ["-p", "web"], ["-p", "web=200M"], ["-a", "1MB", "-u", "soon"]):
        assert memmons_own(words) is None
        with pytest.raises(MigrateError):
            migrate.parse(words)


# -- what will be different


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("-p web=1MB", "Without -c memmon sees the process that supervisord started"),
        ("-c -p web=1MB", "With -c memmon adds up the RSS"),
        ("-p web=1MB", "Programs that memmon was not told of are watched"),
        ("-a 1MB", "-a: memmon also restarts event listeners, itself too"),
        ("-a 1MB", "restarted only where a section of its own names restart"),
        ("-p a:b=1MB", "-p a:b=1MB: memmon 2.0 ends with KeyError"),
        ("-p web_00=1MB", "write [memwatch:GROUP:web_00]"),
        ("-p web=1MB -a 2MB", "-p web=1MB, -a 2MB all mean web: memmon restarts it once for each"),
        ("-g web=2MB -a 1MB", "-g web=2MB, -a 1MB all mean web: memmon restarts its programs once"),
        ("-p web=1MB -u 1d", "-u 1d: memwatch always tells"),
        ("-p web=1MB -s /bin/m", "-s /bin/m: memwatch starts no mail program"),
        ("-n x -p web=1MB", "-n x (memmon itself loses it to the -p or -g behind it)"),
        ("-p web=1MB -n x", "-n x: news names the host"),
        ("-p web=1MB stray -g a=1MB", "stray -g a=1MB: memmon reads nothing from there on"),
    ],
)
def test_what_is_different_is_said(words: str, says: str) -> None:
    """Once, and only to whom it concerns."""
    said = remarks(printed("memmon", *words.split()))
    assert said.count(says) == 1
    assert ("With -c" in said) == ("-c" in words.split())


def test_memmon_loses_a_name_before_a_program() -> None:
    """What is said of -n is so."""
    assert memmons_own(["-n", "x", "-p", "web=1MB"]).name == "web"
    assert memmons_own(["-p", "web=1MB", "-n", "x"]).name == "x"
    with pytest.raises(getopt.GetoptError):
        getopt.getopt(["--groupname=x"], migrate.SHORT, migrate.LONG)


def test_mail_is_a_target_where_there_is_mail(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`notify = mailto:` as soon as the option takes it; else it is said that there is none."""
    words = ("memmon", "-p", "web=1MB", "-m", "bob@example.com")
    try:
        options.parse("notify", "mailto:bob@example.com")
    except ValueError:
        assert "-m bob@example.com: this version sends no mail" in remarks(printed(*words))
        assert loaded(printed(*words), tmp_path).targets() == ()
        monkeypatch.setattr(options, "parse", lambda name, text: (text,))
    assert "\nnotify = mailto:bob@example.com\n" in printed(*words)
    assert "sends no mail" not in printed(*words)


@pytest.mark.parametrize("words", DOCUMENTED)
def test_supervisord_takes_what_is_printed(words: str, tmp_path: Path) -> None:
    """Read by Supervisor's own parser, on its own and after a section of memmon's environment."""
    path = tmp_path / "supervisord.conf"
    login = 'environment = SUPERVISOR_USERNAME="me",SUPERVISOR_PASSWORD="pw"\n'
    memmons = f"[eventlistener:memmon]\ncommand = memmon {words}\n{login}events = TICK_60\n"
    for text in (printed("memmon", *words.split()), of_file(tmp_path, memmons)):
        path.write_text(SERVER + text)
        theirs = ServerOptions()
        theirs.realize(["-c", str(path)])
        (group,) = theirs.process_group_configs
        (process,) = group.process_configs
        assert (group.name, process.command, process.autorestart) == (
            "memwatch",
            "memwatch listen",
            RestartUnconditionally,
        )
        assert "Tick5Event" in {event.__name__ for event in group.pool_events}
    assert process.environment == {"SUPERVISOR_USERNAME": "me", "SUPERVISOR_PASSWORD": "pw"}


# -- a supervisord.conf


def of_file(tmp_path: Path, text: str, **more: str) -> str:
    for name, content in more.items():
        (tmp_path / name.replace("_", ".")).write_text(content)
    path = tmp_path / "supervisord.conf"
    path.write_text(SERVER + text)
    ini = inifile.IniFile(str(path), {})
    return migrate.text(migrate.of_file(ini), ini, "memwatch listen")


PROGRAMS_TEXT = """\
[program:web]
command = gunicorn shop:app
[program:np]
command = celery
numprocs = 2
process_name = %(program_name)s_%(process_num)02d
[program:api]
command = python api.py
[group:back]
programs = api
"""


def test_a_memmon_in_an_included_file_is_found(tmp_path: Path) -> None:
    """What says how a listener is run is kept as it is written; what is memmon's own is not."""
    text = of_file(
        tmp_path,
        "[include]\nfiles = *.ini\n" + PROGRAMS_TEXT,
        mem_ini="[eventlistener:memmon]\ncommand = /opt/bin/memmon -c -p web=300MB\n"
        "events = TICK_60\nuser = www\ndirectory = %(here)s/x\nnumprocs = 1\n"
        'environment = A="1",\n  SUPERVISOR_PASSWORD="%(ENV_PW)s"\n',
    )
    assert f"-c {tmp_path}/supervisord.conf" in text  # another user cannot see it elsewhere
    assert "\nuser = www\ndirectory = %(here)s/x\n" in text
    assert 'environment = A="1",\n    SUPERVISOR_PASSWORD="%(ENV_PW)s"\n' in text
    assert "numprocs" not in text and text.count("command = ") == 1
    said = remarks(text)
    assert "memmon looks at every TICK_60, memwatch every 5 seconds" in said
    assert "Take [eventlistener:memmon] out" in said
    found = loaded(text, tmp_path, SERVER + PROGRAMS_TEXT)
    assert found.listener is not None and found.listener[1]["user"] == "www"
    assert found.options("web", "web").total_limit == options.Ceiling(bytes=300 * MB)
    assert found.options("np", "np_00").mode == "observe"


def test_any_names_restart_for_the_programs_that_are_no_gunicorn(tmp_path: Path) -> None:
    """Only where a section of its own names it is a plain program restarted."""
    memmon = "[eventlistener:m]\ncommand = python -m superlance.memmon -a 1GB\nevents = TICK_5\n"
    text = of_file(tmp_path, PROGRAMS_TEXT + memmon)
    found = loaded(text, tmp_path, SERVER + PROGRAMS_TEXT)
    for group, process, own in (
        ("np", "np_01", True),
        ("back", "api", True),
        ("web", "web", False),
    ):
        got = found.options(group, process)
        assert (got.mode, got.limit) == ("act", options.Ceiling(bytes=1024 * MB))
        assert "restart" in got.actions
        assert ("actions" in found.own_options(group, process)) == own


def test_what_was_meant_counts_where_memmon_finds_nothing(tmp_path: Path) -> None:
    """`-p np` beside `-a`: no sections of their own for np_00 and np_01."""
    memmon = "[eventlistener:m]\ncommand = memmon -a 1GB -p np=300MB\n"
    found = loaded(of_file(tmp_path, PROGRAMS_TEXT + memmon), tmp_path, SERVER + PROGRAMS_TEXT)
    assert found.sections == ("np", "back")
    assert found.options("np", "np_01").limit == options.Ceiling(bytes=300 * MB)
    assert found.options("back", "api").limit == options.Ceiling(bytes=1024 * MB)


@pytest.mark.parametrize(
    ("rule", "sections", "says"),
    [
        ("-p web=1MB", ["memwatch:web"], ""),
        ("-p np=1MB", ["memwatch:np"], "memmon finds nothing of that name, and does nothing"),
        ("-p np_01=1MB", ["memwatch:np:np_01"], ""),
        ("-p api=1MB", ["memwatch:api"], ""),
        ("-p back:api=1MB", ["memwatch:back:api"], "ends with KeyError"),
        ("-g back=1MB", ["memwatch:back"], ""),
        ("-p nothing=1MB", ["memwatch:nothing"], "there is no such program in this file"),
    ],
)
def test_a_name_is_what_memmon_means_by_it(
    rule: str, sections: list[str], says: str, tmp_path: Path
) -> None:
    """A process's name in any group, or a namespec; not a program of several processes."""
    text = of_file(tmp_path, f"{PROGRAMS_TEXT}[eventlistener:m]\ncommand = memmon {rule}\n")
    found = loaded(text, tmp_path, SERVER + PROGRAMS_TEXT)
    assert [f"memwatch:{name}" for name in found.sections] == sections
    assert says in remarks(text)
    assert bool(found.unmatched([*PROGRAMS_OF])) == ("nothing" in rule)


PROGRAMS_OF = [("web", "web"), ("np", "np_00"), ("np", "np_01"), ("back", "api")]


def test_two_memmons_become_one_memwatch(tmp_path: Path) -> None:
    """One with -c, one without: two limits."""
    text = of_file(
        tmp_path,
        f"{PROGRAMS_TEXT}[eventlistener:a]\ncommand = memmon -c -p web=300MB\n"
        "[eventlistener:b]\ncommand = memmon -g web=100MB\n"
        "[eventlistener:c]\ncommand = crashmail\n",
    )
    assert text.count("[eventlistener:memwatch]") == 1
    got = loaded(text, tmp_path, SERVER + PROGRAMS_TEXT).options("web", "web")
    assert got.total_limit == options.Ceiling(bytes=300 * MB)
    assert got.limit == options.Ceiling(bytes=100 * MB)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [eventlistener:...] section starts memmon"),
        (
            "[eventlistener:m]\ncommand = sh -c 'memmon -a 1MB'\n",
            "is not understood: memwatch migrate",
        ),
        ("[eventlistener:m]\ncommand = memmon -a 1M\n", "[eventlistener:m]: -a: size 1M"),
        ("broken\n", "is not understood"),
    ],
)
def test_a_file_without_a_memmon_to_read_says_what_to_do(
    text: str, says: str, tmp_path: Path, capsys: Any
) -> None:
    """Status 2."""
    path = tmp_path / "supervisord.conf"
    path.write_text(SERVER + text)
    assert cli.main(["migrate", str(path)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and says in err and str(path) in err


@pytest.mark.parametrize(
    "words",
    [
        ["--", "memmon", "-a", "1MB"],
        ["memmon", "-a", "1MB"],
        ["--", "-a", "1MB"],
        ["--", "/usr/bin/python3", "-m", "superlance.memmon", "-a", "1MB"],
    ],
)
def test_the_command_takes_memmons_with_or_without_what_starts_it(
    words: list[str], capsys: Any, tmp_path: Path
) -> None:
    """Status 0, and a configuration on stdout that loads."""
    assert cli.main(["migrate", *words]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert loaded(out, tmp_path).options("web", "web").limit == options.Ceiling(bytes=MB)


def test_without_arguments_it_is_the_file_that_is_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    """The running supervisord's, as for every command."""
    path = tmp_path / "supervisord.conf"
    path.write_text(f"{SERVER}[eventlistener:m]\ncommand = memmon -a 7MB\n")
    monkeypatch.setattr(config, "find", lambda *_, **__: str(path))
    assert cli.main(["migrate"]) == 0
    assert "limit = 7MB" in capsys.readouterr().out


def test_no_foreign_text_reaches_a_terminal_as_it_is(tmp_path: Path) -> None:
    """Of a command line, or of a file."""
    text = printed("memmon", "-p", "web=1MB", "-n", "\x1b[2J\nforged", "a\u202eb")
    more = of_file(
        tmp_path,
        "[eventlistener:m]\ncommand = memmon -a 1MB -n \x1b[2J\nuser = a\x1b\u202eb\n",
    )
    for shown in (text, more):
        assert "\x1b" not in shown and "\u202e" not in shown and "\nforged" not in shown


# -- the bench


@pytest.mark.parametrize("example", bench.EXAMPLES, ids=lambda example: example.name)
def test_each_example_of_the_bench_is_a_memmon_and_migrates(
    example: bench.Example, tmp_path: Path
) -> None:
    """Its section is understood by memmon itself; the migrated one acts on foo, and not on ok
    unless it was told of any program."""
    assert memmons_own(example.words.split()) is not None
    rest = bench.sections(example, tmp_path, 1, 2)
    text = of_file(tmp_path, rest + bench.memmon_section(example, tmp_path))
    found = loaded(text, tmp_path, SERVER + rest)
    foo = found.options("bar" if example.group else "foo", "foo")
    size = options.parse("limit", bench.WHOLE if "-c" in example.words else bench.ALONE)
    assert foo.mode == "act"
    assert (foo.total_limit if "-c" in example.words else foo.limit) == size
    assert (found.options("ok", "ok").mode == "act") == ("-a" in example.words)


def test_the_bench_has_every_documented_example() -> None:
    """As documented, where -c makes no difference to what is shown."""
    plain = {e.options.replace(bench.MAIL, "-m bob@example.com") for e in bench.EXAMPLES}
    had = {words.removeprefix("-c ") for words in plain}
    assert {words.replace("200MB", "SIZE") for words in DOCUMENTED} <= had


def test_the_bench_tells_where_memwatch_falls_short() -> None:
    """What memmon restarts and memwatch leaves; a healthy program touched; a lost request."""
    example = bench.EXAMPLES[0]

    def ran(tool: str, state: str = "RUNNING", **acts: list[str]) -> bench.Run:
        one = bench.Run(example, tool, state=state)
        for name, done in acts.items():
            one.programs[name].acts = done
        return one

    good = [ran("memmon", foo=["restart"]), ran("memwatch", foo=["recycle", "recycle"])]
    assert list(bench.faults(good)) == []
    (row,) = list(bench.report(good))[2:]
    assert "| 1 restart | 0 MB |  | 2 recycles | 0 MB |  |" in row
    bad = [ran("memmon", baz=["restart"]), ran("memwatch", "STOPPED", ok=["restart"])]
    bad[1].programs["foo"].lost = {"refused": 3}
    assert [text.partition(": ")[2][:30] for text in bench.faults(bad)] == [
        "memmon restarts baz, and memwa",
        "memwatch does something to ok,",
        "memwatch loses requests of foo",
        "foo is STOPPED at the end",
    ]
