"""The configuration: finding the file, reading it as supervisord does, and every error text."""

from __future__ import annotations

import json
import os
import pwd
import signal
import string
import subprocess
import sys
import time
from binascii import crc32
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from supervisor_memwatch import config, finding, options
from supervisor_memwatch.config import Config, ConfigError, Problem
from supervisor_memwatch.options import Ceiling, Options

ROOT = Path(__file__).resolve().parent.parent
SECRET = "hooks.example.com/services/T0/B0/s3cr3t"
MB = 1024**2


def load(tmp_path: Path, text: str, environ: dict[str, str] | None = None, **how: Any) -> Config:
    """What memwatch makes of a supervisord.conf with this text."""
    file = tmp_path / "supervisord.conf"
    file.write_text(text)
    return config.load(str(file), environ or {}, **how)


def errors(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> list[str]:
    """The lines of the error, each without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, environ)
    prefix = f"{tmp_path}/supervisord.conf: "
    lines = str(caught.value).splitlines()
    assert len(lines) == len(caught.value.problems)
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


# What a program is watched with.


def test_without_sections_every_program_is_observed(tmp_path: Path) -> None:
    """The defaults, for every program but event listeners."""
    found = load(tmp_path, "[supervisord]\n[program:web]\ncommand=x\n[eventlistener:ear]\n")
    assert found.options("web", "web") == Options()
    assert found.watched("web", "web")
    assert not found.watched("ear", "ear")
    assert found.listeners == {"ear"}
    assert not (found.sections or found.warnings or found.ignored)


@pytest.mark.parametrize(
    ("asked", "means"),
    [
        ("web", ["web", "web:web_00", "web:web_01"]),
        ("web:*", ["web", "web:web_00", "web:web_01"]),
        ("web:web", ["web"]),
        ("web:web_01", ["web:web_01"]),
        ("web_01", []),
        ("we", []),
        ("web:", []),
        ("", []),
        (":*", []),
    ],
)
def test_a_program_is_named_as_supervisorctl_has_it(asked: str, means: list[str]) -> None:
    """In full, in short, or by its group."""
    known = ["web", "web:web_00", "web:web_01", "website", "shop:web"]
    assert [spec for spec in known if config.named(asked, spec)] == means


def test_the_event_listeners_are_read_anew(tmp_path: Path) -> None:
    """A later `supervisorctl update` starts more of them; whatever is wrong, nothing is raised."""
    file = tmp_path / "supervisord.conf"
    file.write_text("[eventlistener:ear]\n[include]\nfiles = more.conf\n[memwatch]\nlimt = 1\n")
    assert config.listeners_of(str(file), {}) == {"ear"}
    (tmp_path / "more.conf").write_text("[eventlistener: eye ]\ncommand = %(ENV_X)s\n")
    assert config.listeners_of(str(file), {}) == {"ear", "eye"}
    for broken in (b"nothing\n", b"\xff\xfe"):
        file.write_bytes(broken)
        assert config.listeners_of(str(file), {}) == frozenset()
    for path in (tmp_path, tmp_path / "none", tmp_path / "nu\0ll"):
        assert config.listeners_of(str(path), {}) == frozenset()


NESTED = """
[program:app]
process_name = %(program_name)s_%(process_num)02d
numprocs = 2
numprocs_start = 3
[program:other]
command = x
[group:site]
programs = app, other
[memwatch]
limit = 1MB
cooldown = 1m
[memwatch:app]
limit = 2MB
warmup = 2m
grace = 20s
[memwatch:site]
limit = 3MB
grace = 30s
[memwatch:site:app_04]
limit = 4MB
"""


def test_the_most_exact_section_wins_option_by_option(tmp_path: Path) -> None:
    """Exact namespec before group before program name before [memwatch]."""
    found = load(tmp_path, NESTED)

    def values(group: str, process: str) -> tuple[Any, ...]:
        got = found.options(group, process)
        assert got.limit is not None
        return (got.limit.bytes, got.grace, got.warmup, got.cooldown)

    assert values("site", "app_04") == (4 * MB, 30.0, 120.0, 60.0)
    assert values("site", "app_03") == (3 * MB, 30.0, 120.0, 60.0)
    assert values("site", "other") == (3 * MB, 30.0, 120.0, 60.0)
    assert values("web", "web") == (1 * MB, None, 120.0, 60.0)
    # A program of that name that [program:x] does not explain: its group is its name.
    assert values("app", "anything") == (2 * MB, 20.0, 120.0, 60.0)


def test_the_order_of_the_sections_does_not_matter(tmp_path: Path) -> None:
    """Exactness decides, not the place in the file."""
    forward = load(tmp_path, NESTED)
    head, *sections = NESTED.split("\n[memwatch")
    turned = head + "".join("\n[memwatch" + section.strip("\n") for section in sections[::-1])
    backward = load(tmp_path, turned)
    for pair in (("site", "app_04"), ("site", "app_03"), ("site", "other"), ("web", "web")):
        assert forward.options(*pair) == backward.options(*pair)


def test_own_options_are_those_of_its_own_sections(tmp_path: Path) -> None:
    """[memwatch] names no program; all the more exact sections do."""
    found = load(tmp_path, NESTED + "[memwatch:web:web]\nactions = restart\n")
    assert found.own_options("site", "app_04") == {"limit", "warmup", "grace"}
    assert found.own_options("site", "other") == {"limit", "grace"}
    assert found.own_options("web", "web") == {"actions"}
    assert found.own_options("plain", "plain") == frozenset()


def test_the_targets_of_news_are_those_of_all_sections(tmp_path: Path) -> None:
    """Each once."""
    found = load(
        tmp_path,
        "[memwatch:web]\nnotify = https://b/ https://a/\n[memwatch]\nnotify = https://a/ https://c/\n",
    )
    assert sorted(found.targets()) == ["https://a/", "https://b/", "https://c/"]
    assert load(tmp_path, "").targets() == ()


def test_names_that_match_nothing_are_told(tmp_path: Path) -> None:
    """A misspelt NAME is found by the programs that exist; a listener is no program."""
    found = load(tmp_path, NESTED + "[memwatch:sote]\n[memwatch:ear]\n[eventlistener:ear]\n")
    pairs = [("site", "app_03"), ("site", "app_04"), ("ear", "ear")]
    assert found.unmatched(pairs) == ("sote", "ear")
    assert found.unmatched([]) == ("app", "site", "site:app_04", "sote", "ear")


@pytest.mark.parametrize(
    ("programs", "matched"),
    [
        ("[program:a]\n", {("a", "a"): "a"}),
        ("[fcgi-program:a]\n", {("a", "a"): "a"}),
        ("[program: a ]\n", {("a", "a"): "a"}),
        ("[program:a]\nprocess_name=b\n", {("a", "b"): "a"}),
        ("[program:a]\n[group:g]\nprograms=a,b\n", {("g", "a"): "a"}),
        ("[program:a]\n[group:g]\nprograms=a\n[group:h]\nprograms=a", {("g", "a"), ("h", "a")}),
        ("[program:a]\nprocess_name=%(group_name)s-%(process_num)s\nnumprocs=2", {"a-0", "a-1"}),
        ("[DEFAULT]\nprocess_name=%(program_name)s_x\n[program:a]\n", {("a", "a_x"): "a"}),
        ("[program:a]\nprocess_name=%(host_node_name)s\n", {("a", os.uname().nodename): "a"}),
        ("[program:a]\nprocess_name=%(ENV_IT)s\n", {("a", "it"): "a"}),
        ("[program:a]\nprocess_name=%(ENV_NONE)s\n", {}),
        ("[program:a]\nprocess_name=%(process_num)d%\nnumprocs=3\n", {}),
        ("[program:a]\nnumprocs=many\n", {}),
        ("[program:a]\nprocess_name=%(process_num)s\nnumprocs=0\n", {}),
    ],
)
def test_program_names_are_told_from_supervisors_sections(
    tmp_path: Path, programs: str, matched: Any
) -> None:
    """What cannot be told is left out; it is never an error."""
    found = load(tmp_path, programs, {"IT": "it"})._programs
    if isinstance(matched, dict):
        assert found == matched
    else:
        assert matched in (set(found), {process for _, process in found})


def test_a_million_processes_are_not_counted_out(tmp_path: Path) -> None:
    """A number that supervisord would choke on does not make us choke."""
    text = "[program:a]\nprocess_name=%(process_num)s\nnumprocs=999999999\n"
    assert len(load(tmp_path, text)._programs) == 10_000


@pytest.mark.parametrize(
    ("globs", "watched"),
    [
        ("", {"web", "api:0", "api:1"}),
        ("programs = web", {"web"}),
        ("programs = web:web", {"web"}),
        ("programs = api", set()),
        ("programs = api:*", {"api:0", "api:1"}),
        ("programs = *:*", {"web", "api:0", "api:1"}),
        ("programs = w*, api:0", {"web", "api:0"}),
        ("programs = w*\n  api:[!0]", {"web", "api:1"}),
        ("exclude = api:1 WEB", {"web", "api:0"}),
        ("programs = api:*\nexclude = *:1", {"api:0"}),
        ("exclude = *", set()),
    ],
)
def test_globs_match_the_full_namespec_and_the_short_one(
    tmp_path: Path, globs: str, watched: set[str]
) -> None:
    """The short one where group and name are equal; case matters."""
    found = load(tmp_path, f"[memwatch]\n{globs}\n[eventlistener:ear]\n")
    pairs = [("web", "web"), ("api", "0"), ("api", "1"), ("ear", "ear")]
    assert {config.namespec(*pair) for pair in pairs if found.watched(*pair)} == watched


def test_a_namespec_is_short_where_both_names_are_equal() -> None:
    """As supervisorctl prints it."""
    assert config.namespec("web", "web") == "web"
    assert config.namespec("web", "web_00") == "web:web_00"


# Reading as supervisord reads.


def test_comments_case_and_repetition_are_supervisors(tmp_path: Path) -> None:
    """Inline comments are cut, names of options have no case, repeated sections merge."""
    found = load(
        tmp_path,
        "[memwatch:web]\nLimit: 3MB ; three\ngrace = 9s # nine\n; warmup = 1h\n"
        "[memwatch]\nnotify = https://a/x#y\n   https://b/%2F\n"
        "[memwatch:web]\nlimit = 5MB\n[ memwatch : web ]\nkill = on\n",
    )
    got = found.options("web", "web")
    assert (got.limit, got.grace, got.kill, got.warmup) == (Ceiling(5 * MB), 9.0, True, 120.0)
    assert got.notify == ("https://a/x#y", "https://b/%2F")
    assert found.sections == ("web",)


def test_default_values_of_other_sections_are_not_ours(tmp_path: Path) -> None:
    """[DEFAULT] gives every section Supervisor's options: no unknown options of [memwatch]."""
    found = load(tmp_path, "[DEFAULT]\nautorestart = true\n[memwatch]\nmode = act\n")
    assert found.options("web", "web").mode == "act"


def test_only_known_names_are_expanded(tmp_path: Path) -> None:
    """%(here)s, %(host_node_name)s, %(ENV_X)s; any other % stands for itself, and once only."""
    found = load(
        tmp_path,
        "[memwatch]\ntotal_limit = 90%\npreflight = x %% %(a)s %(here)s %(host_node_name)s 50%s\n"
        "notify = %(ENV_HOOK)s/%(ENV_HOOK)s\n",
        {"HOOK": "https://h/%(here)s"},
    )
    got = found.options("web", "web")
    assert got.preflight == ("x", "%%", "%(a)s", str(tmp_path), os.uname().nodename, "50%s")
    assert got.notify == ("https://h/%(here)s/https://h/%(here)s",)


def test_includes_are_read_like_supervisords(tmp_path: Path) -> None:
    """Globs relative to the main file, sorted; the last one wins; here is where it stands."""
    (tmp_path / "more" / "old").mkdir(parents=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "more" / "1.conf").write_text("[memwatch]\nlimit = 1MB\npreflight = %(here)s\n")
    (tmp_path / "more" / "2.conf").write_text("[memwatch]\nlimit = 2MB\n[include]\nfiles = 9\n")
    (tmp_path / "more" / "9").write_text("[memwatch]\nlimit = 9MB\n")
    (tmp_path / "sub" / "x.conf").write_text("[memwatch:web]\ngrace = 7s\n[program:web]\n")
    found = load(
        tmp_path,
        "[memwatch]\nlimit = 5MB\nwarmup = 5m\n"
        "[include]\nfiles = more/?.conf more/o* nothing/*\n  %(here)s/%(ENV_SUB)s/x.conf\n",
        {"SUB": "sub"},
    )
    got = found.options("web", "web")
    assert (got.limit, got.warmup, got.grace) == (Ceiling(2 * MB), 300.0, 7.0)
    assert got.preflight == (str(tmp_path / "more"),)
    names = ("supervisord.conf", "more/1.conf", "more/2.conf", "sub/x.conf")
    assert found.files == tuple(str(tmp_path / name) for name in names)


def test_supervisord_reads_the_same_programs(tmp_path: Path) -> None:
    """Group, process and program names agree with Supervisor's own reader."""
    from supervisor.options import ServerOptions

    (tmp_path / "more.conf").write_text(
        "[program:late]\ncommand=/bin/x\nprocess_name=%(program_name)s_%(process_num)02d\n"
        "numprocs=3\nnumprocs_start=7\n[fcgi-program:f]\ncommand=/bin/x\nsocket=unix:///tmp/f\n"
    )
    text = (
        "[supervisord]\nidentifier=%(here)s-me\n[unix_http_server]\nfile=%(here)s/s.sock\n"
        "[inet_http_server]\nport=*:9001\nusername=u\npassword=p\n"
        "[include]\nfiles=*.conf\n"
        "[program:a]\ncommand=/bin/x\n[program: b ]\ncommand=/bin/x\nprocess_name=%(ENV_B)s\n"
        "[program:c]\ncommand=/bin/x\nprocess_name=%(group_name)s.%(process_num)s\n"
        "[group:g]\nprograms=a,c\n[group:h]\nprograms=c\n[eventlistener:ear]\n"
        "command=/bin/x\nevents=TICK_5\n"
    )
    (tmp_path / "supervisord.conf").write_text(text)
    theirs = ServerOptions()
    theirs.environ_expansions = {"ENV_B": "bee"}
    theirs.realize(["-c", str(tmp_path / "supervisord.conf")])
    names = {(g.name, p.name) for g in theirs.process_group_configs for p in g.process_configs}

    found = config.load(str(tmp_path / "supervisord.conf"), {"B": "bee"})
    assert {*found._programs, ("ear", "ear")} == names
    assert {("g", "a"), ("g", "g.0"), ("h", "h.0"), ("b", "bee"), ("late", "late_09")} <= names
    assert found.identifier == theirs.identifier
    assert found.server_url == theirs.serverurl


# Errors.


def test_all_errors_come_at_once(tmp_path: Path) -> None:
    """Each with file, section, option, value, and what would be valid."""
    (tmp_path / "more.conf").write_text("[memwatch:api]\nkill = maybe\n")
    (tmp_path / "bad.conf").write_text("nothing\n")
    (tmp_path / "supervisord.conf").write_text(
        "[memwatch]\nmode = watch\nlimt = 3MB\n[memwatch:web]\nlimit = 40QB\n"
        "grace = %(ENV_GRACE)s\n[include]\nfiles = bad.conf more.conf\n"
    )
    with pytest.raises(ConfigError) as caught:
        config.load(str(tmp_path / "supervisord.conf"), {})
    here = f"{tmp_path}/"
    assert str(caught.value).splitlines() == [
        f"{here}bad.conf: line 1 stands before any [section]",
        f"{here}supervisord.conf: [memwatch] mode = watch: valid: observe or act",
        f"{here}supervisord.conf: [memwatch] limt: no such option; valid: limit",
        f"{here}supervisord.conf: [memwatch:web] limit = 40QB: valid: "
        "a size above 0 such as 400MB or 2GB, a share up to 100% such as 80%, or none",
        f"{here}more.conf: [memwatch:api] kill = maybe: valid: on or off",
        f"{here}supervisord.conf: [memwatch:web] grace = %(ENV_GRACE)s: "
        "ENV_GRACE is not set in the environment",
    ]
    assert caught.value.problems[1] == Problem(
        f"{here}supervisord.conf", "memwatch", "mode", "watch", "observe or act"
    )


def test_an_option_without_likeness_gets_the_list(tmp_path: Path) -> None:
    """Nothing close: then all of them."""
    (line,) = errors(tmp_path, "[memwatch]\nqqq = 1\n")
    assert line == f"[memwatch] qqq: no such option; valid: {', '.join(options.FIELDS)}"


@pytest.mark.parametrize(
    "option", [name for name, field in options.FIELDS.items() if not field.metadata["everywhere"]]
)
def test_some_options_belong_to_everybody(tmp_path: Path, option: str) -> None:
    """In a [memwatch:NAME] section they are an error that says so."""
    (line,) = errors(tmp_path, f"[memwatch:web]\n{option} = 1\n")
    assert line == f"[memwatch:web] {option} = 1: allowed in [memwatch] only"


def test_an_expanded_value_is_not_shown(tmp_path: Path) -> None:
    """What stands in the environment stays there; the text of the file is shown."""
    (line,) = errors(tmp_path, "[memwatch]\nmode = %(ENV_M)s\n", {"M": "s3cr3t"})
    assert line == (
        "[memwatch] mode = %(ENV_M)s: expanded, it is something else; valid: observe or act"
    )


def test_an_empty_value_is_shown_as_such(tmp_path: Path) -> None:
    """Nothing stands after the equals sign."""
    assert errors(tmp_path, "[memwatch]\nmode =\n") == ["[memwatch] mode =: valid: observe or act"]


@pytest.mark.parametrize(
    "section",
    [
        *("memwatch:", "memwatch: ", "memwatch-web", "memwatch.web", "memwatch web", "MemWatch"),
        *("memwatcher:web", "mem-watch:web", "memwacth:web", "memwach"),
    ],
)
def test_a_misspelt_section_is_an_error(tmp_path: Path, section: str) -> None:
    """Supervisor ignores sections it does not know: nobody else would say it."""
    (line,) = errors(tmp_path, f"[{section}]\nlimit = 1MB\n")
    assert line == f"[{section}]: no such section; valid: [memwatch] or [memwatch:NAME]"


@pytest.mark.parametrize(
    "section", ["program:memwatch", "memmon", "memcached:x", "membership", "x"]
)
def test_a_foreign_section_is_nobodys_business(tmp_path: Path, section: str) -> None:
    """Other tools keep their configuration here as well."""
    assert load(tmp_path, f"[{section}]\nlimt = 40QB\n").sections == ()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"x = 1\n[memwatch]\n", "line 1 stands before any [section]"),
        (b"\xef\xbb\xbf[memwatch]\n", "line 1 stands before any [section]"),
        (b"[memwatch]\nnonsense\n", "line 2 is not understood; valid: option = value"),
        (b"[memwatch]\n= 1\n", "line 2 is not understood; valid: option = value"),
        (b"[memwatch]\n\nmode = \xe4\n", "line 3 is not UTF-8"),
    ],
)
def test_a_broken_file_is_told_with_its_line(tmp_path: Path, content: bytes, what: str) -> None:
    """The main file or an included one; the line itself is not shown."""
    main, more = tmp_path / "supervisord.conf", tmp_path / "more.conf"
    main.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(str(main), {})
    assert str(caught.value) == f"{main}: {what}"

    main.write_text("[include]\nfiles = more.conf\n")
    more.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.load(str(main), {})
    assert str(caught.value) == f"{more}: {what}"


def test_an_unreadable_file_is_told(tmp_path: Path) -> None:
    """Missing, a directory, a name that cannot be."""
    for path, reason in (
        (str(tmp_path / "none.conf"), "No such file or directory"),
        (str(tmp_path), "Is a directory"),
        (str(tmp_path) + "/a\0b", "ValueError"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.load(path, {})
        assert str(caught.value).endswith(f": cannot be read: {reason}")
        assert "\0" not in str(caught.value)


def test_an_included_file_that_vanishes_or_is_forbidden_is_told(tmp_path: Path) -> None:
    """A dangling link matches the glob and cannot be read."""
    (tmp_path / "more.conf").symlink_to(tmp_path / "nowhere")
    (tmp_path / "supervisord.conf").write_text("[include]\nfiles = *.conf\n")
    with pytest.raises(ConfigError, match=r"more\.conf: cannot be read: No such file"):
        config.load(str(tmp_path / "supervisord.conf"), {})


def test_a_missing_variable_matters_only_where_strict(tmp_path: Path) -> None:
    """For the other commands the option counts as not set, and they can say so."""
    text = (
        "[memwatch]\nnotify = https://x/%(ENV_HOOK)s\nlimit = 3MB\n"
        "[memwatch:web]\nlimit = %(ENV_LIMIT)s\n[include]\nfiles = %(ENV_MORE)s\n"
    )
    assert errors(tmp_path, text) == [
        "[include] files = %(ENV_MORE)s: ENV_MORE is not set in the environment",
        "[memwatch] notify = (not shown): ENV_HOOK is not set in the environment",
        "[memwatch:web] limit = %(ENV_LIMIT)s: ENV_LIMIT is not set in the environment",
    ]
    found = load(tmp_path, text, strict=False)
    assert found.options("web", "web").notify == ()
    assert found.options("web", "web").limit == Ceiling(3 * MB)
    assert [problem.option for problem in found.ignored] == ["files", "notify", "limit"]
    assert load(tmp_path, text, {"HOOK": "h", "LIMIT": "1MB", "MORE": ""}).ignored == ()


def test_what_supervisord_adds_to_the_environment_is_known(tmp_path: Path) -> None:
    """A terminal has not inherited the `environment` that the listener gets; its own goes first."""
    text = (
        '[supervisord]\nenvironment = HOOK="https://%(ENV_HOST)s/b,c",MODE=act,A=%%(ENV_A)s\n'
        "[eventlistener:memwatch]\ncommand = memwatch listen\nenvironment = KEEP='9d'\n"
        "[eventlistener:other]\ncommand = other\nenvironment = GRACE=9s\n"
        "[memwatch]\nnotify = %(ENV_HOOK)s\nmode = %(ENV_MODE)s\nkeep = %(ENV_KEEP)s\n"
    )
    environ = {"MODE": "observe", "HOST": "a"}
    got = load(tmp_path, text, environ).options("web", "web")
    assert (got.notify, got.mode, got.keep) == (("https://a/b,c",), "observe", 9 * 86400.0)
    (line,) = errors(tmp_path, text + "grace = %(ENV_GRACE)s\n", environ)
    assert "ENV_GRACE is not set" in line
    for broken in ("A", "A=%(ENV_A)s", "A=%", "A='"):
        ours = "[memwatch]\nmode = %(ENV_A)s\n"
        (line,) = errors(tmp_path, f"[supervisord]\nenvironment = {broken}\n{ours}")
        assert "ENV_A is not set" in line


@pytest.mark.parametrize(
    "text",
    [
        f"[memwatch]\nnotify = ftp://{SECRET}\n",
        f"[memwatch]\nnotify = {SECRET}\n",
        f"[memwatch]\nnotify = https://{SECRET} %(ENV_X)s\n",
        "[memwatch]\nnotify = %(ENV_BAD)s\n",
        f"[memwatch]\nnotfy = https://{SECRET}\n",
        f"[memwatch]\nmode = https://{SECRET}\n",
        f"[memwatch]\nnotify =\nhttps://{SECRET}\n",
        f"[memwatch]\nnotify =\n//{SECRET}?wait=true\n",
        f"[memwatch]\nnotify =\n{SECRET}\n",
        f"[memwatch-web]\nnotify = https://{SECRET}\n",
        f"https://{SECRET}\n[memwatch]\n",
        f"[memwatch]\nnotify = https://{SECRET}\udce4\n",
    ],
)
def test_where_news_goes_is_never_shown(tmp_path: Path, text: str) -> None:
    """A webhook is a password: no error repeats it, whatever the mistake is."""
    file = tmp_path / "supervisord.conf"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        config.load(str(file), {"BAD": f"ftp://{SECRET}"})
    shown = str(caught.value) + repr(caught.value) + repr(caught.value.problems)
    assert "s3cr3t" not in shown
    assert "supervisord.conf" in shown


def test_a_configuration_does_not_print_its_secrets(tmp_path: Path) -> None:
    """repr() ends up in logs sooner or later."""
    found = load(
        tmp_path,
        f"[memwatch]\nnotify = https://{SECRET}\n"
        "[unix_http_server]\nfile = /s\nusername = u\npassword = s3cr3t\n",
    )
    assert found.password == "s3cr3t"
    assert "s3cr3t" not in repr(found)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """Values, sections and paths pass units.printable()."""
    folder = tmp_path / "a\x1bb"
    folder.mkdir()
    file = folder / "supervisord.conf"
    file.write_text("[memwatch:\x1b[31m]\nmode = \x1b[2J\u202e\n")
    with pytest.raises(ConfigError) as caught:
        config.load(str(file), {})
    assert str(caught.value).isprintable()
    assert r"mode = \x1b[2J\u202e" in str(caught.value)


def test_options_without_effect_are_warned_of(tmp_path: Path) -> None:
    """Set to what this version does not do; not the default, and not off."""
    found = load(
        tmp_path,
        "[memwatch]\nsurge = on\nmetrics = http://127.0.0.1:9\npreflight = auto\n"
        "[memwatch:web]\nsurge = off\npreflight = /bin/true\n",
    )
    expected = {
        ("memwatch", "surge", "on"),
        ("memwatch", "metrics", "(not shown)"),
        ("memwatch:web", "preflight", "/bin/true"),
    }
    assert set(found.warnings) == {
        f"{tmp_path}/supervisord.conf: [{section}] {option} = {value}: "
        f"has no effect: {options.NOT_YET[option]}"
        for section, option, value in expected
        if option in options.NOT_YET
    }


# Where the RPC is.

UNIX = "[unix_http_server]\nfile=%(here)s/s.sock\n"
INET = "[inet_http_server]\nport=127.0.0.1:9001\nusername=inet\npassword=pi\n"


@pytest.mark.parametrize(
    ("text", "rpc"),
    [
        ("", (None, None, None)),
        (UNIX, ("unix://{here}/s.sock", None, None)),
        (INET, ("http://127.0.0.1:9001", "inet", "pi")),
        (INET + UNIX + "username=x\npassword=%(ENV_P)s", ("unix://{here}/s.sock", "x", "pe")),
        ("[inet_http_server]\nport=*:99", ("http://localhost:99", None, None)),
        ("[inet_http_server:b]\nport=99", ("http://localhost:99", None, None)),
        (UNIX + "username=x\npassword={SHA}82ab", ("unix://{here}/s.sock", None, None)),
        (UNIX + INET + "[supervisorctl]\n", ("unix://{here}/s.sock", None, None)),
        (
            UNIX + INET + "[supervisorctl]\nserverurl=http://localhost:9001",
            ("http://localhost:9001", "inet", "pi"),
        ),
        (
            UNIX + INET + "[supervisorctl]\nserverurl=unix://%(here)s/../s\nusername=c\npassword=d",
            ("unix://{parent}/s", "c", "d"),
        ),
        ("[supervisorctl]\nserverurl=http://far:9001", ("http://far:9001", None, None)),
        ("[unix_http_server]\nfile=%(ENV_NONE)s\n", (None, None, None)),
    ],
)
def test_the_rpc_is_found(tmp_path: Path, text: str, rpc: tuple[str | None, ...]) -> None:
    """[supervisorctl] first, then the servers, the Unix socket before the port."""
    found = load(tmp_path, text, {"P": "pe"})
    url = rpc[0] and rpc[0].format(here=tmp_path, parent=tmp_path.parent)
    assert (found.server_url, found.username, found.password) == (url, *rpc[1:])


def test_each_server_has_its_own_password(tmp_path: Path) -> None:
    """The listener is told a URL by supervisord, and no password."""
    found = load(tmp_path, UNIX + "username=x\npassword=px\n" + INET)
    assert found.credentials(f"unix://{tmp_path}/s.sock") == ("x", "px")
    assert found.credentials("http://127.0.0.1:9001") == ("inet", "pi")
    assert found.credentials("http://elsewhere:9001") == ("x", "px")


# Where the journal is.


def test_the_journal_has_its_place_by_user_and_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/var/lib/memwatch for root, else below the passwd home, whatever HOME says."""
    monkeypatch.setenv("HOME", "/nowhere")

    digest = f"{crc32(str(tmp_path / 'supervisord.conf').encode()):08x}"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert load(tmp_path, "").journal_path() == f"/var/lib/memwatch/supervisor-{digest}.sqlite"
    someone = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    monkeypatch.setattr(os, "geteuid", lambda: someone.pw_uid)
    assert load(tmp_path, "").journal_path() == os.path.join(
        someone.pw_dir, f".local/state/memwatch/supervisor-{digest}.sqlite"
    )
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    assert load(tmp_path, "").journal_path().startswith("/var/lib/memwatch/")


def test_the_journal_is_that_of_the_listeners_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks in a terminal means the listener's journal, not one of their own."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    someone = next(entry for entry in pwd.getpwall() if entry.pw_uid)
    listener = "[eventlistener:m]\ncommand = /v/bin/memwatch listen\nuser = "
    for text in (
        f"[supervisord]\nuser={someone.pw_name}\n",
        f"{listener}{someone.pw_uid}\n[supervisord]\nuser=root\n",
        f"{listener}{someone.pw_name}\n",
    ):
        assert (
            load(tmp_path, text).journal_path().startswith(someone.pw_dir.rstrip("/") + "/.local")
        )
    other = f"[eventlistener:m]\ncommand = other\nuser = {someone.pw_name}\n"
    for text in (other, f"{listener}no-such-user\n", f"{listener}{10**30}\n"):
        assert load(tmp_path, text).journal_path().startswith("/var/lib/memwatch/")


def test_the_journal_may_be_a_file_or_a_directory(tmp_path: Path) -> None:
    """A directory is one that exists, or a path that ends in a slash; relative to its file."""
    (tmp_path / "dir").mkdir()
    for text, place in (
        ("/x/y.db", "/x/y.db"),
        ("/x/y/", "/x/y/*.sqlite"),
        ("%(here)s/dir", f"{tmp_path}/dir/*.sqlite"),
        ("dir", f"{tmp_path}/dir/*.sqlite"),
        ("file.db", f"{tmp_path}/file.db"),
    ):
        path = load(tmp_path, f"[memwatch]\njournal = {text}\n").journal_path()
        head, star, tail = place.partition("*")
        assert path.startswith(head)
        assert path.endswith(tail)
        assert bool(star) == ("/supervisor-" in path)


@pytest.mark.parametrize(
    ("identifier", "start"),
    [
        ("blue", "blue-"),
        ("../../etc/passwd", "_.._etc_passwd-"),
        ("a b\tc", "a_b_c-"),
        ("...", "supervisor-"),
        ("", "supervisor-"),
        ("%(nothing)s", "supervisor-"),
        ("x" * 300, "x" * 64 + "-"),
    ],
)
def test_the_identifier_makes_a_safe_file_name(tmp_path: Path, identifier: str, start: str) -> None:
    """No path, no hidden file, nothing a shell or a terminal minds."""
    text = f"[supervisord]\nidentifier = {identifier}\n[memwatch]\njournal = /d/\n"
    name = load(tmp_path, text).journal_path().removeprefix("/d/")
    assert name.startswith(start)
    assert set(name) <= {*string.ascii_letters, *string.digits, *"._-"}


def test_a_link_to_the_configuration_means_the_same_journal(tmp_path: Path) -> None:
    """The real path counts for the journal, the path as given for includes and %(here)s."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "x.conf").write_text("[memwatch]\nlimit = 2MB\n")
    direct = load(tmp_path, "[include]\nfiles = x.conf\n[memwatch]\npreflight = %(here)s\n")
    link = tmp_path / "etc" / "link.conf"
    link.symlink_to(tmp_path / "supervisord.conf")
    linked = config.load(str(link), {})
    assert linked.journal_path() == direct.journal_path()
    assert linked.path == direct.path == str(tmp_path / "supervisord.conf")
    assert linked.options("web", "web").limit == Ceiling(2 * MB)
    assert linked.options("web", "web").preflight == (str(tmp_path / "etc"),)


# Finding the file.


class Proc:
    """A made-up /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()

    def add(self, pid: int | str, *argv: str, parent: int = 1, **more: Any) -> None:
        directory = self.root / str(pid)
        directory.mkdir()
        (directory / "cmdline").write_bytes(b"".join(os.fsencode(arg) + b"\0" for arg in argv))
        (directory / "stat").write_text(f"{pid} (a) b) c) S {parent} 7 7 0\n")
        if "cwd" in more:
            (directory / "cwd").symlink_to(more["cwd"])
            (directory / "environ").write_bytes(f"A=b\0PWD={more.get('pwd', '')}\0".encode())


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Proc:
    """An empty /proc; and no configuration where we stand."""
    made = Proc(tmp_path / "proc")
    monkeypatch.setattr(finding, "PROC", str(made.root))
    monkeypatch.setattr(finding, "SYSTEM", (str(tmp_path / "system.conf"),))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "venv" / "bin" / "memwatch")])
    return made


def test_a_given_file_is_taken(proc: Proc) -> None:
    """-c is not second-guessed."""
    proc.add(1, "supervisord", "-c", "/other.conf")
    assert config.find("mine.conf", command="listen") == "mine.conf"
    assert config.find("mine.conf", command="status") == "mine.conf"


@pytest.mark.parametrize(
    "argv",
    [
        "supervisord -c /a.conf",
        "/usr/bin/supervisord -c/a.conf",
        "supervisord -n --configuration=/a.conf -u root",
        "supervisord --configuration /a.conf",
        "supervisord --conf=/a.conf",
        "supervisord -nc /a.conf",
        "supervisord -nsc/a.conf",
        "supervisord -l /x/y -e debug -c /a.conf -i name",
        "/usr/bin/python3 /usr/bin/supervisord -n -c /a.conf",
        "/v/bin/python3.11 -u -W ignore -X dev -bb /v/bin/supervisord -c /a.conf",
        "python -m supervisor.supervisord -c /a.conf",
        "pypy3 /opt/supervisord-3.11 -c /a.conf",
        "python /s/supervisor/supervisord.py -c /a.conf",
    ],
)
def test_a_running_supervisord_tells_its_file(proc: Proc, argv: str) -> None:
    """However it was started, by the listener's parent or by anybody."""
    proc.add(7, *argv.split(), parent=0)
    proc.add("self", "python", "memwatch", parent=7)
    assert config.find(None, command="status") == "/a.conf"
    assert config.find(None, command="listen") == "/a.conf"


@pytest.mark.parametrize(
    "argv",
    [
        "vim /etc/supervisord.conf",
        "tail -f supervisord -c /a.conf",
        "python x.py supervisord -c /a.conf",
        "python -m http.server -c /a.conf",
        "python -m supervisor.supervisorctl -c /a.conf",
        "python -c supervisord -c /a.conf",
        "sh -c supervisord",
        "supervisorctl -c /a.conf",
        "",
    ],
)
def test_other_programs_are_not_taken_for_supervisord(proc: Proc, argv: str) -> None:
    """Its name in a command line is not enough."""
    proc.add(7, *argv.split(), parent=0)
    proc.add("self", "memwatch", parent=7)
    for command in ("listen", "status"):
        with pytest.raises(ConfigError, match=r"no configuration file; tried .*; valid: -c FILE"):
            config.find(None, command=command)


def test_the_listener_asks_its_own_supervisord(proc: Proc) -> None:
    """The nearest one above, through shells and wrappers, not any other that runs."""
    proc.add(1, "/sbin/init", parent=0)
    proc.add(10, "supervisord", "-c", "/outer.conf")
    proc.add(20, "python3", "/bin/supervisord", "-c", "/inner.conf", parent=10)
    proc.add(21, "sh", "-c", "memwatch listen; true", parent=20)
    proc.add("self", "memwatch", "listen", parent=21)
    proc.add(30, "supervisord", "-c", "/third.conf")
    assert config.find(None, command="listen") == "/inner.conf"


def test_several_supervisords_are_an_error_that_lists_them(proc: Proc, tmp_path: Path) -> None:
    """Two with the same file are one."""
    proc.add(10, "supervisord", "-c", "/a.conf")
    proc.add(11, "supervisord", "-c", "/a.conf", parent=10)  # about to become a program
    proc.add("self", "memwatch")
    assert config.find(None, command="status") == "/a.conf"
    proc.add(20, "supervisord", "-c", "/b.conf")
    with pytest.raises(ConfigError) as caught:
        config.find(None, command="status")
    assert str(caught.value) == (
        "several supervisords are running, with /a.conf, /b.conf; valid: -c FILE"
    )


def test_a_relative_file_is_where_supervisord_was_started(proc: Proc, tmp_path: Path) -> None:
    """Its directory, or the one it was started in where `directory` has moved it."""
    (tmp_path / "start").mkdir()
    (tmp_path / "moved").mkdir()
    file = tmp_path / "start" / "s.conf"
    file.touch()
    proc.add(7, "supervisord", "-c", "s.conf", cwd=tmp_path / "moved", pwd=tmp_path / "start")
    assert config.find(None, command="status") == str(file)
    (tmp_path / "moved" / "s.conf").touch()
    assert config.find(None, command="status") == str(tmp_path / "moved" / "s.conf")


def test_a_file_that_cannot_be_told_is_an_error(proc: Proc) -> None:
    """Somebody else's directory cannot be read; another supervisord does not hide that one."""
    proc.add(7, "supervisord", "-c", "s.conf", parent=0)
    proc.add("self", "memwatch", parent=7)
    for command in ("status", "listen"):
        with pytest.raises(ConfigError) as caught:
            config.find(None, command=command)
        assert str(caught.value) == (
            "which configuration file supervisord (pid 7) reads cannot be told: it was started "
            "with -c s.conf, and its directory cannot be read or has no such file; valid: -c FILE"
        )


def test_a_listener_finds_a_relative_file_where_it_was_started_itself(
    proc: Proc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another user it cannot read its parent's directory, but it has inherited it."""
    proc.add(7, "supervisord", "-c", "s.conf", parent=0)
    proc.add("self", "memwatch", parent=7)
    (tmp_path / "s.conf").touch()
    monkeypatch.chdir(tmp_path)
    assert config.find(None, command="listen") == str(tmp_path / "s.conf")
    with pytest.raises(ConfigError):
        config.find(None, command="status")


def test_without_c_supervisords_own_search_counts(proc: Proc, tmp_path: Path) -> None:
    """Beside its script first, then in its directory: not ours."""
    for name in ("v/bin", "v/etc", "cwd"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "supervisord.conf").touch()  # ours
    proc.add(7, "python", f"{tmp_path}/v/bin/supervisord", cwd=tmp_path / "cwd")
    own = tmp_path / "cwd" / "supervisord.conf"
    own.touch()
    assert config.find(None, command="status") == str(own)
    beside = tmp_path / "v" / "etc" / "supervisord.conf"
    beside.touch()
    assert config.find(None, command="status") == str(beside)


def test_without_a_supervisord_the_search_path_counts(proc: Proc, tmp_path: Path) -> None:
    """The one Supervisor's own commands use in the same place."""
    proc.add("self", "memwatch", parent=0)
    for command in ("listen", "check"):
        with pytest.raises(ConfigError, match=r"tried .*/system\.conf"):
            config.find(None, command=command)
    (tmp_path / "supervisord.conf").touch()
    assert config.find(None, command="check") == "supervisord.conf"
    (tmp_path / "venv" / "etc").mkdir(parents=True)
    (tmp_path / "venv" / "etc" / "supervisord.conf").touch()
    assert config.find(None, command="check") == str(tmp_path / "venv/etc/supervisord.conf")


def test_the_command_line_is_supervisords_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The options and the search path are those of the installed Supervisor."""
    from supervisor.options import ServerOptions

    monkeypatch.setattr(sys, "argv", ["/v/bin/supervisord"])
    theirs = ServerOptions()
    assert set(finding._SHORT.replace(":", "")) == set("".join(theirs.short_options)) - {":"}
    assert {letter for letter in theirs.short_options if letter.endswith(":")} == {
        f"{letter}:" for letter in string.ascii_letters if f"{letter}:" in finding._SHORT
    }
    assert set(finding._LONG) == set(theirs.long_options)
    assert finding._search_path(sys.argv[0]) == theirs.searchpaths


# The example that comes with the package.


def test_the_example_is_a_configuration_supervisord_accepts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its programs, its listener's events, its include: from wherever it is read."""
    from supervisor.options import ServerOptions

    monkeypatch.chdir("/")
    theirs = ServerOptions()
    theirs.realize(["-n", "-c", str(ROOT / "conf" / "supervisord.conf")])
    assert not theirs.parse_warnings
    assert {group.name for group in theirs.process_group_configs} == {"web", "memwatch"}
    (listener,) = (group for group in theirs.process_group_configs if group.name == "memwatch")
    assert listener.buffer_size == 100
    assert {event.__name__ for event in listener.pool_events} == {
        *("Tick5Event", "ProcessStateEvent", "RemoteCommunicationEvent"),
        "SupervisorStateChangeEvent",
    }
    assert [process.priority for process in listener.process_configs] == [50]


def test_the_example_watches_its_program_with_the_defaults() -> None:
    """Nothing in it acts before somebody wants it to."""
    found = config.load(str(ROOT / "conf" / "supervisord.conf"), {})
    assert found.files[1:] == (str(ROOT / "conf" / "memwatch.conf"),)
    assert found.watched("web", "web")
    assert not found.watched("memwatch", "memwatch")
    assert found.options("web", "web") == Options()
    assert found.server_url == "unix:///tmp/memwatch-example.sock"


# Whatever is written.

_VALUES = st.one_of(
    st.sampled_from(
        ["on", "act", "1MB", "80%", "%(here)s", "%(ENV_A)s", "%(ENV_NONE)s", "%(x)s", "%", "%d"]
    ),
    st.text(max_size=20),
)
_SECTIONS = st.one_of(
    st.sampled_from(
        [
            *("memwatch", "memwatch:web", "memwatch:", "eventlistener:memwatch", "DEFAULT"),
            *("program:web", "group:g", "include", "supervisord", "supervisorctl"),
            *("unix_http_server", "inet_http_server"),
        ]
    ),
    st.text(max_size=12),
)
_SUPERVISORS = (
    "files programs process_name numprocs port file user username password serverurl environment "
    "identifier command"
)
_NAMES = st.one_of(
    st.sampled_from([*options.FIELDS, *_SUPERVISORS.split()]),
    st.text(max_size=12),
)
_LINES = st.one_of(
    st.builds("[{}]".format, _SECTIONS),
    st.builds("{} = {}".format, _NAMES, _VALUES),
    st.builds("{}: {}".format, _NAMES, _VALUES),
    st.builds("  {}".format, _VALUES),
    st.text(max_size=20),
)
_FILES = st.one_of(
    st.lists(_LINES, max_size=25).map(lambda lines: "\n".join(lines).encode(errors="replace")),
    st.lists(st.builds("[{}]\n{} = {}".format, _SECTIONS, _NAMES, _VALUES), max_size=12).map(
        lambda blocks: "\n".join(blocks).encode(errors="replace")
    ),
    st.binary(max_size=200),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(main=_FILES, more=_FILES, strict=st.booleans())
def test_no_file_is_anything_but_a_config_or_an_error(
    tmp_path: Path, main: bytes, more: bytes, strict: bool
) -> None:
    """Never a traceback on a user's mistake; and what loads, answers."""
    (tmp_path / "more.conf").write_bytes(more)
    file = tmp_path / "supervisord.conf"
    file.write_bytes(b"[include]\nfiles = more.conf\n" + main)
    try:
        found = config.load(str(file), {"A": "1"}, strict=strict)
    except ConfigError as error:
        assert error.problems
        assert all(line.isprintable() and line for line in str(error).splitlines())
        assert len(str(error).splitlines()) == len(error.problems)
        return
    assert isinstance(found.options("web", "web"), Options)
    assert os.path.isabs(found.journal_path())
    assert found.watched("web", "web") in (True, False)
    assert set(found.unmatched([])) == set(found.sections)


@settings(max_examples=200)
@given(st.lists(st.text(st.characters(exclude_characters="\0")), max_size=6))
def test_no_command_line_is_anything_but_read(arguments: list[str]) -> None:
    """Any program may call itself supervisord."""
    given_file = finding._given_file(arguments)
    assert given_file is None or isinstance(given_file, str)


# With a real supervisord.

_ASKS = """
import json, sys
from supervisor_memwatch import config
found = config.find(None, command="listen")
with open(sys.argv[1], "w") as out:
    json.dump([found, config.load(found, {}).path], out)
print("READY", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def supervisord(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One whose event listener writes down what it found; given a relative file and -nc."""
    (tmp_path / "asks.py").write_text(_ASKS)
    (tmp_path / "here.conf").write_text(
        "[supervisord]\nlogfile=%(here)s/log\npidfile=%(here)s/pid\nchildlogdir=%(here)s\n"
        f"[eventlistener:ear]\ncommand={sys.executable} %(here)s/asks.py %(here)s/answer\n"
        "events=TICK_3600\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-nc", "here.conf"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.slow
def test_a_real_listener_finds_its_supervisords_file(
    tmp_path: Path, supervisord: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From inside as `listen`, from outside as any other command."""
    file = str(tmp_path / "here.conf")
    answer, deadline = tmp_path / "answer", time.monotonic() + 60
    while not (answer.exists() and answer.read_text().endswith("]")):
        assert time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.05)
    assert json.loads(answer.read_text()) == [file, file]

    # Only this one: others may run on the same machine.
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / str(supervisord.pid)).symlink_to(f"/proc/{supervisord.pid}")
    monkeypatch.setattr(finding, "PROC", str(tmp_path / "proc"))
    assert config.find(None, command="status") == file


def test_a_problem_needs_no_more_than_a_sentence() -> None:
    """Parts that are empty leave no colons behind."""
    assert str(Problem("", what="nothing found")) == "nothing found"
    assert str(Problem("/a", "s")) == "/a: [s]"
    assert str(ConfigError([Problem("/a", what="x"), Problem("/b")])) == "/a: x\n/b"
