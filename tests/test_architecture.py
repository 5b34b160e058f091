"""The shape of the code, read off its syntax trees: who imports whom, and what nobody does."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import supervisor_memwatch

PACKAGE = Path(supervisor_memwatch.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text(), str(path)) for path in PACKAGE.glob("*.py")}

# Values in, values out. Each may import those before it, in this order of layers.
PURE = (
    ("model", "units", "quiet", "wallclock"),
    ("options", "series", "needs", "ledger", "errorlog", "learning"),
    ("growth", "preflight", "attribution", "procedure"),
    ("past", "recycling", "restarting", "releases"),
    ("sizes",),
    ("detectors", "trends"),
    ("procedures", "policy", "messages", "protocol", "recording", "advice"),
    ("report", "backtest", "runs", "cells", "curves"),
    ("comparison",),
    ("watch", "appraisal", "explain", "deeds", "keyboard", "conflicts"),
    ("siblings", "answer"),
    ("page", "screen", "overview", "wording"),
    ("markup",),
)
# Each owns one outside thing, or reads what another one wrote.
SHELL = (
    ("inifile", "topology", "host", "control", "log", "fingerprint"),
    ("finding", "sockets", "openfiles", "tally", "journal", "notifiers"),
    ("config", "sampler"),
    ("trial", "rights"),
    ("status", "rehearsal", "replay", "audit", "migrate", "asking", "terminal"),
    ("history",),
    ("chronicle", "top"),
    ("serve",),
)
TOP = (("listener", "demo"), ("cli",), ("__main__", "ctlplugin"))
LAYERS = (*PURE, *SHELL, *TOP)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# The version; what gunicorn serves; what runs in the workers of others.
APART = {"__init__", "demo_app", "hook"}

PURE_NAMES = sorted(name for names in PURE for name in names)
# The standard library as far as it has no I/O, no clock and no randomness.
WITHOUT_EFFECT = {
    *("__future__", "array", "bisect", "codecs", "collections", "dataclasses", "enum"),
    *("fnmatch", "functools", "itertools", "json", "math", "operator", "re", "shlex"),
    *("statistics", "string", "textwrap", "typing", "unicodedata"),
    *("base64", "hashlib", "html"),
}
# What runs in the listener's process.
LISTENER = sorted(
    {*PURE_NAMES, "listener", "journal", "log", "control", "sampler", "topology", "host"}
    | {"notifiers", "config", "inifile", "finding", "sockets", "tally", "trial"}
)


def imports(module: str) -> list[tuple[str, bool, int]]:
    """Every import of a module: what, whether inside a function, and the line.

    `from . import x` and `from .x import y` are both ".x"; what is only for the type checker
    counts too.
    """
    found: list[tuple[str, bool, int]] = []

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                found.extend((alias.name, inside, child.lineno) for alias in child.names)
            elif isinstance(child, ast.ImportFrom) and not child.level:
                found.append((child.module or "", inside, child.lineno))
            elif isinstance(child, ast.ImportFrom):
                names = [child.module] if child.module else [alias.name for alias in child.names]
                found.extend((f".{name}", inside, child.lineno) for name in names)
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, inside or function)

    visit(MODULES[module], False)
    return found


def calls(module: str) -> list[tuple[str, ast.Call]]:
    """Every call of a module, by its dotted name as it is written."""
    return [
        (ast.unparse(node.func), node)
        for node in ast.walk(MODULES[module])
        if isinstance(node, ast.Call)
    ]


def test_every_module_has_its_place() -> None:
    """A new file is put into a layer here, or this fails."""
    assert set(MODULES) - APART == set(RANK)


@pytest.mark.parametrize("module", sorted(RANK))
def test_imports_point_downward(module: str) -> None:
    """Inside functions too: a late import is an import."""
    for name, _, line in imports(module):
        if name.startswith(".") and name not in (".__version__",):
            assert RANK[name[1:]] < RANK[module], f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", PURE_NAMES)
def test_a_pure_module_imports_nothing_with_an_effect(module: str) -> None:
    """No clock, file, process, network, thread or chance; and no shell module, ever."""
    for name, _, line in imports(module):
        known = name[1:] in PURE_NAMES if name.startswith(".") else name.partition(".")[0]
        assert known is True or known in WITHOUT_EFFECT, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", PURE_NAMES)
def test_a_pure_module_opens_and_prints_nothing(module: str) -> None:
    """What needs no import."""
    forbidden = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}
    assert not [f"line {call.lineno}: {name}" for name, call in calls(module) if name in forbidden]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_calls_a_shell(module: str) -> None:
    """No shell=True, no os.system, no popen: arguments are vectors."""
    for name, call in calls(module):
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert words.get("shell", "False") == "False", f"{module}:{call.lineno}"
        assert name not in ("os.system", "os.popen", "subprocess.getoutput"), call.lineno
        assert name != "subprocess.getstatusoutput", call.lineno
        # **words could hide it.
        assert not name.startswith("subprocess.") or None not in words, call.lineno


@pytest.mark.parametrize("module", sorted(MODULES))
def test_requests_is_imported_only_where_there_is_something_to_send(module: str) -> None:
    """Inside functions of notifiers.py: it costs the listener 8 MB."""
    for name, inside, line in imports(module):
        if name.partition(".")[0] in ("requests", "urllib3"):
            assert module == "notifiers" and inside, f"{module}:{line}"


@pytest.mark.parametrize("module", LISTENER)
def test_the_listener_loads_nothing_heavy_at_its_start(module: str) -> None:
    """What costs a megabyte is imported where it is needed."""
    heavy = {"argparse", "logging", "xmlrpc", "statistics", "requests", "http", "urllib", "email"}
    heavy |= {"subprocess", "asyncio", "numpy", "inspect", "supervisor", "unittest", "ssl"}
    for name, inside, line in imports(module):
        assert inside or name.partition(".")[0] not in heavy, f"{module}:{line} imports {name}"


@pytest.mark.parametrize("module", LISTENER)
def test_nothing_in_the_listener_writes_to_stdout(module: str) -> None:
    """That is the event protocol's, and of that the listener has its own descriptor."""
    for name, call in calls(module):
        assert name != "print", f"{module}:{call.lineno}"
        to_one = name == "os.write" and ast.unparse(call.args[0]) == "1"
        assert not to_one, f"{module}:{call.lineno}"
    named = [ast.unparse(n) for n in ast.walk(MODULES[module]) if isinstance(n, ast.Attribute)]
    assert not {"sys.stdout", "sys.__stdout__"} & set(named)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_opens_with_what_it_covers(module: str) -> None:
    """Its docstring."""
    assert (ast.get_docstring(MODULES[module]) or "").strip()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_nobody_catches_everything_and_says_nothing(module: str) -> None:
    """No bare `except:`; no `except Exception: pass`."""
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{module}:{node.lineno}"
            silent = all(isinstance(line, ast.Pass) for line in node.body)
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (silent and broad), f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"control", "demo", "trial"}))
def test_only_control_sends_signals(module: str) -> None:
    """os.kill with anything but 0 (the rehearsal's question) is nobody else's, but for those who
    end children of their own."""
    for name, call in calls(module):
        if name in ("os.kill", "os.killpg", "signal.pidfd_send_signal"):
            question = name == "os.kill" and ast.unparse(call.args[1]) == "0"
            assert question, f"{module}:{call.lineno}"
