"""The `memwatch` command: arguments in, exit status out, and the only wiring of the parts.

Exit status of every command: 0 done or healthy; 1 the answer is no (something found, held,
refused, a check failed); 2 could not (usage, configuration, no journal, no RPC).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from . import __version__

if TYPE_CHECKING:
    import argparse

    from .config import Config

Run = Callable[["argparse.Namespace"], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = parser().parse_args(argv)
    run: Run = arguments.run
    # A name that the terminal cannot show is shown escaped, and a recording that is not text
    # is an error of its lines.
    _set_errors(sys.stdout, "backslashreplace")
    _set_errors(sys.stdin, "replace")
    try:
        result = run(arguments)
        # Here and not at the interpreter's end, where nobody could say it in words.
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`memwatch status | head`): not an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def _set_errors(stream: object, errors: str) -> None:
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors=errors)


def parser() -> argparse.ArgumentParser:
    """Every command and its arguments."""
    import argparse

    top = argparse.ArgumentParser(
        prog="memwatch",
        description="A memory watchdog for gunicorn under Supervisor.",
        epilog="Exit status of every command: 0 done or healthy; 1 the answer is no; 2 could not.",
    )
    top.add_argument("--version", action="version", version=f"memwatch {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, help: str, more: str) -> argparse.ArgumentParser:
        """`more`: what it prints, and its exit status."""
        about = help[0].upper() + help[1:] + ("" if help.endswith("?") else ".")
        sub = commands.add_parser(name, help=help, description=about, epilog=more)
        sub.set_defaults(run=run)
        return sub

    def with_file(sub: argparse.ArgumentParser) -> None:
        sub.add_argument(
            "-c",
            "--configuration",
            metavar="FILE",
            help="supervisord.conf; default: the running supervisord's, else its search path",
        )

    listen = command(
        "listen",
        _listen,
        "the event listener; supervisord starts it",
        "Its log is on stderr, stdout carries Supervisor's event protocol. "
        "Exit status: 0 told to stop; 1 the protocol was broken; 2 could not start.",
    )
    with_file(listen)

    audit = command(
        "audit",
        _audit,
        "from any terminal: is my application leaking?",
        "Prints what each worker holds, how it moves, a verdict, how sure that is and what would "
        "make it surer. Ctrl-C ends the watch early. Exit status: 0 nothing found, or not enough "
        "to tell; 1 something found; 2 could not.",
    )
    audit.add_argument(
        "names",
        nargs="*",
        metavar="NAMESPEC|PID",
        help="a program or group of Supervisor's, or the pid of a gunicorn or of any program; "
        "default: every gunicorn that is found",
    )
    audit.add_argument(
        "--for",
        dest="seconds",
        default="60s",
        metavar="TIME",
        help="how long to watch (default 60s); 0: one look",
    )
    audit.add_argument("--save", metavar="FILE", help="keep what was seen, for --since")
    audit.add_argument(
        "--since", metavar="FILE", help="compare each worker with itself in FILE (made by --save)"
    )
    audit.add_argument(
        "--record", metavar="FILE", help="write every look of one program, for `memwatch replay`"
    )
    audit.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(audit)

    status = command(
        "status",
        _status,
        "what the listener sees now",
        "Prints every program with its workers, their verdicts, what is held and why. "
        "Exit status: 0 nothing is told; 1 something is; 2 could not, or the listener is silent.",
    )
    status.add_argument(
        "names", nargs="*", metavar="NAMESPEC", help="programs or groups; default: all"
    )
    status.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(status)

    check = command(
        "check",
        _check,
        "the configuration in words, and a rehearsal",
        "Prints a line for each thing the listener will need: ok, FAIL and what to do, or for "
        "information. Exit status: 0 nothing fails; 1 something does; 2 could not.",
    )
    check.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(check)

    replay = command(
        "replay",
        _replay,
        "run recorded snapshots through the detectors",
        "Prints a line of JSON for each tick: what is told and what would be acted on; with "
        "--summary what would have been done over the whole recording instead. `memwatch audit "
        "--record FILE` makes one. Exit status: 0 done; 2 could not, or some lines were bad (said "
        "on stderr).",
    )
    replay.add_argument("file", nargs="?", default="-", metavar="FILE", help="default: - (stdin)")
    replay.add_argument(
        "--config",
        metavar="FILE",
        help="judge with the options that this supervisord.conf has for the recorded program; what "
        "they would have done is said on stderr at the end",
    )
    replay.add_argument(
        "--summary",
        action="store_true",
        help="print what would have been done, in place of the line for each tick",
    )
    replay.add_argument("--json", action="store_true", help="machine-readable summary")

    notify = command(
        "notify",
        _notify,
        "send a test message to every target",
        "Prints a line for each target. Exit status: 0 all took it; 1 one did not; 2 could not.",
    )
    notify.add_argument("--test", action="store_true", required=True, help="send it")
    notify.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(notify)

    demo = command(
        "demo",
        _demo,
        "a leak found and recycled while requests flow",
        "Prints what happens, for up to two minutes. Exit status: 0 the leak was found and "
        "recycled; 1 it was not; 2 could not.",
    )
    demo.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    return top


def fail(text: object) -> int:
    """Say on stderr why it could not be done."""
    from .units import printable

    # An error may have several lines; what foreign names are in it is made safe all the same.
    lines = [printable(line, 2000) for line in f"memwatch: {text}".split("\n")]
    print("\n".join(lines), file=sys.stderr)
    return 2


def configuration(arguments: argparse.Namespace, command: str, strict: bool = False) -> Config:
    """The configuration the command is about. Raises ConfigError."""
    from . import config

    path = config.find(arguments.configuration, command=command)
    return config.load(path, os.environ, strict=strict)


def _print_json(document: Any) -> None:
    import json

    print(json.dumps(document, indent=2))


def _listen(arguments: argparse.Namespace) -> int:
    from .config import ConfigError
    from .listener import keep_stdout_clean

    if os.isatty(0):
        return fail(
            "listen is started by supervisord: put an [eventlistener:memwatch] section with "
            "`command = memwatch listen` in supervisord.conf"
        )
    events_out = keep_stdout_clean()
    try:
        config = configuration(arguments, "listen", strict=True)
    except ConfigError as error:
        return fail(error)
    url = os.environ.get("SUPERVISOR_SERVER_URL") or config.server_url
    if not url:
        return fail(
            f"{config.path}: no [unix_http_server] and no [inet_http_server]: without one "
            "(and [rpcinterface:supervisor]) Supervisor's programs cannot be seen"
        )
    from .control import Supervisor
    from .journal import JournalError
    from .listener import Listener
    from .log import Log

    username, password = config.credentials(url)
    supervisor = Supervisor(
        url,
        os.environ.get("SUPERVISOR_USERNAME", username),
        os.environ.get("SUPERVISOR_PASSWORD", password),
    )
    try:
        listener = Listener(
            config, supervisor, Log(), 0, events_out, os.environ.get("SUPERVISOR_GROUP_NAME")
        )
    except JournalError as error:
        return fail(error)
    return listener.run()


def _audit(arguments: argparse.Namespace) -> int:
    from . import audit, units
    from .audit import AuditError

    try:
        seconds = units.parse_time(arguments.seconds)
    except ValueError:
        return fail(f"--for {arguments.seconds}: valid: a time such as 30s or 10m, or 0")
    try:
        return audit.run(
            arguments.names,
            seconds,
            save=arguments.save,
            since=arguments.since,
            as_json=arguments.json,
            namespecs=lambda: _running_programs(arguments),
            record=arguments.record,
            options=lambda namespec: _options_of(arguments, namespec),
        )
    except AuditError as error:
        return fail(error)


def _options_of(arguments: argparse.Namespace, namespec: str) -> Any:
    """What the configuration has for a program; the defaults where it cannot be read."""
    from .config import ConfigError
    from .options import Options

    try:
        config = configuration(arguments, "audit")
    except ConfigError:
        return Options()
    group, _, process = namespec.partition(":")
    return config.options(group, process or group)


def _running_programs(arguments: argparse.Namespace) -> dict[str, int]:
    """namespec -> pid of the running programs. Raises AuditError where Supervisor is not seen."""
    from .audit import AuditError
    from .config import ConfigError, namespec
    from .control import RpcError

    try:
        config = configuration(arguments, "audit")
        with connect(config) as supervisor:
            return {
                namespec(str(found["group"]), str(found["name"])): int(found["pid"])
                for found in supervisor.programs()
                if found["pid"]
            }
    except (ConfigError, RpcError) as error:
        raise AuditError(error) from None


def connect(config: Config) -> Any:
    """A client of the RPC that the configuration names. Raises RpcError."""
    from .control import RpcError, Supervisor

    if not config.server_url:
        raise RpcError(None, f"{config.path}: no [unix_http_server] and no [inet_http_server]")
    return Supervisor(config.server_url, config.username, config.password)


def _status(arguments: argparse.Namespace) -> int:
    from . import report, status
    from .config import ConfigError
    from .journal import JournalError

    try:
        found = status.read(configuration(arguments, "status"), arguments.names)
    except (ConfigError, JournalError) as error:
        return fail(error)
    if arguments.json:
        _print_json(found.document)
    else:
        print(report.status_text(found.document, found.advice))
    if found.silent:
        fail("the listener is silent: see `supervisorctl status` and its log")
    return status.exit_status(found)


def _check(arguments: argparse.Namespace) -> int:
    from . import rehearsal
    from .config import ConfigError

    try:
        config = configuration(arguments, "check", strict=True)
    except ConfigError as error:
        return fail(error)
    lines = rehearsal.rehearse(config)
    if arguments.json:
        _print_json([line._asdict() for line in lines])
    else:
        print("\n".join(map(str, lines)))
    return 1 if any(line.ok is False for line in lines) else 0


def _replay(arguments: argparse.Namespace) -> int:
    from . import backtest, config, replay
    from .config import ConfigError

    if arguments.json and not arguments.summary:
        return fail("replay --json is for --summary: the line for each tick is JSON as it is")
    options = None
    test = backtest.Backtest() if arguments.config or arguments.summary else None
    if arguments.config:
        try:
            found = config.load(arguments.config, os.environ, strict=False)
        except ConfigError as error:
            return fail(error)

        def options(namespec: str) -> Any:
            group, _, process = namespec.partition(":")
            own = found.options(group, process or group)
            if test is not None:
                named = found.own_options(group, process or group)
                test.plain_restart = "restart" in own.actions and "actions" in named
                if not named:
                    test.remarks.append(
                        f"{arguments.config} has no section for {namespec}: judged with the "
                        "options for every program"
                    )
            return own

    out = None if arguments.summary else sys.stdout
    if arguments.file == "-":
        status = replay.replay(sys.stdin, out, sys.stderr, options, test)
    else:
        try:
            lines = open(arguments.file, encoding="utf-8", errors="replace")  # noqa: SIM115
        except OSError as error:
            return fail(f"{arguments.file}: {error.strerror}")
        with lines:
            status = replay.replay(lines, out, sys.stderr, options, test)
    if test is not None and test.ticks:
        if arguments.json:
            _print_json(test.result())
        else:
            text = "\n".join(backtest.words(test.result()))
            print(text, file=sys.stdout if arguments.summary else sys.stderr)
    return status


def _notify(arguments: argparse.Namespace) -> int:
    from . import notifiers
    from .config import ConfigError

    try:
        config = configuration(arguments, "notify", strict=True)
    except ConfigError as error:
        return fail(error)
    targets = config.targets()
    if not targets:
        return fail(f"{config.path}: no `notify` is set in any [memwatch] section")
    deliveries = notifiers.test(targets)
    if arguments.json:
        _print_json([delivery._asdict() for delivery in deliveries])
    else:
        for number, delivery in enumerate(deliveries, 1):
            how = "ok" if delivery.ok else "FAILED"
            print(f"{number}. {delivery.target}: {how}: {delivery.text}")
    return 0 if all(delivery.ok for delivery in deliveries) else 1


def _demo(arguments: argparse.Namespace) -> int:
    from . import demo

    return demo.run(keep=arguments.keep)
