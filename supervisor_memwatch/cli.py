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
    top = parser()
    arguments = top.parse_args(argv)
    if arguments.configuration is not None and not arguments.takes_file:
        top.error("-c is for commands that read supervisord.conf; this one does not")
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
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"memwatch {__version__}")
    top.set_defaults(takes_file=False)

    def file_option(to: argparse.ArgumentParser, default: str | None) -> None:
        to.add_argument(
            "-c",
            "--configuration",
            metavar="FILE",
            default=default,
            help="supervisord.conf; default: the running supervisord's, else its search path",
        )

    file_option(top, None)
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, help: str, more: str) -> argparse.ArgumentParser:
        """`more`: what it prints, and its exit status."""
        about = help[0].upper() + help[1:] + ("" if help.endswith("?") else ".")
        # --for after `reload` must not be taken for --force, which it begins.
        sub = commands.add_parser(
            name, help=help, description=about, epilog=more, allow_abbrev=False
        )
        sub.set_defaults(run=run)
        return sub

    def with_file(sub: argparse.ArgumentParser) -> None:
        # Not given after the command, what was given before it holds.
        file_option(sub, argparse.SUPPRESS)
        sub.set_defaults(takes_file=True)

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

    live = command(
        "top",
        _top,
        "what the listener sees, live on the terminal",
        "Arrows choose, s sorts, / filters, p pauses, r recycles (asks first), e explains, ? says "
        "more, q quits. Without a terminal, or with TERM=dumb, it is `memwatch status`. Exit "
        "status: 0 quit; 2 could not; of --once that of `memwatch status`.",
    )
    live.add_argument(
        "names", nargs="*", metavar="NAMESPEC", help="programs or groups; default: all"
    )
    live.add_argument(
        "--sort",
        choices=("size", "trend", "age", "pid", "name"),
        default="size",
        help="what comes first (default size)",
    )
    live.add_argument(
        "--every", default="2s", metavar="TIME", help="how often it is read anew (default 2s)"
    )
    live.add_argument("--once", action="store_true", help="print one screen and end")
    with_file(live)

    history = command(
        "history",
        _history,
        "what was done, when, why, with what result",
        "Prints the actions, what people asked for and what others did, the newest last. "
        "Exit status: 0 done; 2 could not.",
    )
    history.add_argument(
        "names", nargs="*", metavar="NAMESPEC", help="programs or groups; default: all"
    )
    history.add_argument(
        "--since",
        metavar="TIME|DATE",
        help="all from then on: 2h (ago), 18:10, 2026-01-31 or '2026-01-31 18:10'",
    )
    history.add_argument(
        "-n",
        dest="most",
        type=int,
        metavar="N",
        help="the newest N (default: 20, or all that --since asks for)",
    )
    history.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(history)

    explain = command(
        "explain",
        _explain,
        "why it acted, and why it did not",
        "Prints for each program the answer in a sentence, every verdict with what it lacks, what "
        "holds an action and when that lets go, and the last action with its reason. "
        "Exit status: 0 done; 2 could not, or the listener is silent.",
    )
    explain.add_argument(
        "names", nargs="*", metavar="NAMESPEC", help="programs or groups; default: all"
    )
    explain.add_argument(
        "--since",
        metavar="TIME|DATE",
        help="how far back requests and refusals are told: 2h (ago), 18:10, or a date (default 1d)",
    )
    explain.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(explain)

    page = command(
        "report",
        _report,
        "one HTML file: the curves, what was told and done, and the answer in words",
        "The file needs nothing beside it, no network either. Exit status: 0 written; 2 could not.",
    )
    page.add_argument(
        "-o", dest="output", required=True, metavar="FILE", help="where it is written; -: stdout"
    )
    page.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAMESPEC",
        help="a program or group, more than once for several; default: all",
    )
    page.add_argument(
        "--since",
        metavar="TIME|DATE",
        help="from then on: 7d (ago), 18:10, 2026-01-31 or '2026-01-31 18:10'; default: a day",
    )
    page.add_argument("--until", metavar="TIME|DATE", help="up to then; default: now")
    with_file(page)

    serve = command(
        "serve",
        _serve,
        "the same page, live, for a browser on this machine",
        "Serves until Ctrl-C or SIGTERM; changes nothing, asks for no password and is therefore "
        "bound to loopback or a unix socket alone. Exit status: 0 told to stop; 2 could not.",
    )
    serve.add_argument(
        "--listen",
        default="127.0.0.1:8787",
        metavar="ADDRESS",
        help="127.0.0.1:PORT, [::1]:PORT or unix:/path/to/socket (default 127.0.0.1:8787)",
    )
    serve.add_argument(
        "--program",
        action="append",
        default=[],
        metavar="NAMESPEC",
        help="a program or group, more than once for several; default: all",
    )
    serve.add_argument(
        "--since", default="1d", metavar="TIME", help="how far back it shows (default 1d)"
    )
    with_file(serve)

    for name, help in (
        ("pause", "begin no action for a while"),
        ("resume", "end a pause"),
        ("recycle", "have one worker replaced"),
        ("reload", "have all workers replaced (SIGHUP to the master)"),
        ("restart", "have the program stopped and started"),
    ):
        _add_request(command, with_file, name, help)

    check = command(
        "check",
        _check,
        "the configuration in words, and a rehearsal",
        "Prints a line for each thing the listener will need: ok, FAIL and what to do, warn, or "
        "for information. Exit status: 0 nothing fails; 1 something does; 2 could not.",
    )
    check.add_argument(
        "--no-preflight",
        action="store_true",
        help="do not try whether new workers boot: where mode = act that runs gunicorn "
        "--check-config, or the command that `preflight` has, for up to a minute",
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

    migrate = command(
        "migrate",
        _migrate,
        "a superlance memmon's options as sections of memwatch",
        "Prints a configuration to paste and, as comments, what will be different: "
        "`memwatch migrate -- memmon -c -p web=200MB`, or `memwatch migrate supervisord.conf` for "
        "the memmon in it; without arguments, the running supervisord's. No file is changed. "
        "Exit status: 0 printed; 2 could not.",
    )
    migrate.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="FILE | -- memmon OPTION ...",
        help="a supervisord.conf, or memmon's command line",
    )

    demo = command(
        "demo",
        _demo,
        "a leak found and recycled while requests flow",
        "Prints what happens, for up to two minutes. Exit status: 0 the leak was found and "
        "recycled; 1 it was not; 2 could not.",
    )
    demo.add_argument("--keep", action="store_true", help="leave the directory with the logs")
    return top


def _add_request(command: Any, with_file: Any, name: str, help: str) -> None:
    """One of the commands that ask the running listener for something."""
    who = (
        "TARGET is the worker that leaves. Where it is done as a surge and TARGET is not the "
        "oldest worker, the oldest leaves as well: the answer names it, `surge = off` spares it. "
    )
    sub = command(
        name,
        _request,
        help,
        (who if name == "recycle" else "")
        + "Asks the running listener through Supervisor's RPC, and prints what it answers. "
        "Exit status: 0 accepted; 1 held or refused, the reason is printed; 2 could not, or the "
        "listener does not answer.",
    )
    sub.set_defaults(command=name, seconds=None, force=False, wait=False)
    what = "a worker's pid, or a program with one worker" if name == "recycle" else "a program"
    what += "; may be left out where only one program is watched"
    if name in ("pause", "resume"):
        what = "a program or group; default: all"
    sub.add_argument("target", nargs="?", metavar="TARGET", help=what)
    if name == "pause":
        sub.add_argument(
            "--for", dest="seconds", metavar="TIME", help="how long, 30m or 2h (default 1h)"
        )
    elif name != "resume":
        sub.add_argument(
            "--force", action="store_true", help="past cooldown and budget, never past preflight"
        )
        sub.add_argument("--wait", action="store_true", help="wait for its end, and say how it was")
    sub.add_argument("--json", action="store_true", help="machine-readable output")
    with_file(sub)
    sub.add_argument(
        "-s", dest="serverurl", metavar="URL", help="Supervisor's RPC; default: the configuration's"
    )
    sub.add_argument(
        "-u", dest="username", metavar="USER", help="its login; or SUPERVISOR_USERNAME"
    )
    sub.add_argument(
        "-p",
        dest="password",
        metavar="PASSWORD",
        help="the same; everybody on the host can read it here, not so in SUPERVISOR_PASSWORD",
    )


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
            file=arguments.configuration,
        )
    except AuditError as error:
        return fail(error)


def _options_of(arguments: argparse.Namespace, namespec: str) -> Any:
    """What the configuration has for a program; the defaults where it cannot be read."""
    from .config import ConfigError
    from .options import Options

    try:
        return configuration(arguments, "audit").options_of(namespec)
    except ConfigError:
        return Options()


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
    import shutil

    from . import overview, status
    from .config import ConfigError
    from .journal import JournalError

    try:
        found = status.read(configuration(arguments, "status"), arguments.names)
    except (ConfigError, JournalError) as error:
        return fail(error)
    if arguments.json:
        _print_json(found.document)
    else:
        columns = shutil.get_terminal_size().columns
        print(overview.text(found.document, columns, found.advice, found.paused, found.early))
    if found.silence:
        fail(f"{found.silence}; see `supervisorctl status` and its log")
    return status.exit_status(found)


def _history(arguments: argparse.Namespace) -> int:
    from . import history
    from .config import ConfigError
    from .journal import JournalError

    most = arguments.most
    if most is None and arguments.since is None:
        most = 20
    elif most is not None and most < 1:
        return fail(f"-n {most}: valid: a number from 1 on")
    try:
        config = configuration(arguments, "history")
        after = _moment(arguments.since, config)
        document = history.read(config, arguments.names, after, most)
    except (ConfigError, JournalError) as error:
        return fail(error)
    except ValueError as error:
        return fail(f"--since {error}")
    if arguments.json:
        _print_json(document)
    else:
        print(history.words(document))
    return 0


def _moment(text: str | None, config: Config) -> float | None:
    """What --since or --until means. Raises JournalError; ValueError, in words."""
    from . import history, status

    return None if text is None else history.since(text, status.now(config))


def _explain(arguments: argparse.Namespace) -> int:
    from . import history
    from .config import ConfigError
    from .journal import JournalError

    try:
        config = configuration(arguments, "explain")
        found = history.explained(config, arguments.names, _moment(arguments.since, config))
    except (ConfigError, JournalError) as error:
        return fail(error)
    except ValueError as error:
        return fail(f"--since {error}")
    if arguments.json:
        _print_json(found.document)
    else:
        print(history.explained_words(found.document))
    return fail(f"{found.silence}; see `supervisorctl status`") if found.silence else 0


def _report(arguments: argparse.Namespace) -> int:
    from . import chronicle, serve
    from .config import ConfigError
    from .journal import JournalError

    try:
        config = configuration(arguments, "report")
        since, until = _moment(arguments.since, config), _moment(arguments.until, config)
        document = chronicle.document(config, arguments.program, since, until)
    except (ConfigError, JournalError) as error:
        return fail(error)
    except ValueError as error:
        return fail(f"--since or --until {error}")
    page = serve.report(document).encode()
    if arguments.output == "-":
        # UTF-8 whatever the locale: the page says that it is.
        sys.stdout.flush()
        sys.stdout.buffer.write(page)
        return 0
    try:
        with open(arguments.output, "wb") as file:
            file.write(page)
    except OSError as error:
        return fail(f"{arguments.output}: {error.strerror}")
    print(serve.written(arguments.output, document, len(page)))
    return 0


def _serve(arguments: argparse.Namespace) -> int:
    import signal

    from . import serve, units
    from .config import ConfigError
    from .journal import JournalError

    try:
        length = units.parse_time(arguments.since)
    except ValueError:
        length = 0.0
    if length < 60:
        return fail(f"--since {arguments.since}: valid: a time such as 2h or 7d, from 1m on")
    try:
        where = serve.address(arguments.listen)
        config = configuration(arguments, "serve")
        server = serve.open_server(config, where, arguments.program, length)
    except (ConfigError, JournalError, serve.ServeError) as error:
        return fail(error)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(f"{serve.url(server)} (Ctrl-C ends it)", flush=True)
        server.serve_forever()
    except KeyboardInterrupt:
        return 0
    finally:
        serve.close(server)
    return 0


def _request(arguments: argparse.Namespace) -> int:
    from . import asking, units
    from .config import ConfigError
    from .control import RpcError
    from .journal import JournalError

    seconds = None
    if arguments.seconds is not None:
        try:
            seconds = units.parse_time(arguments.seconds)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds < 1e9:
            return fail(f"--for {arguments.seconds}: valid: a time such as 30m, 2h or 7d")
    command, target, by = arguments.command, arguments.target or "", asking.myself()
    if arguments.target is not None and not target.strip():
        return fail("TARGET is empty: name a program, or leave it out")
    try:
        config = configuration(arguments, command)
        with asking.connect(
            config, arguments.serverurl, arguments.username, arguments.password
        ) as supervisor:
            answer = asking.ask(
                config,
                command,
                target,
                seconds=seconds,
                force=arguments.force,
                by=by,
                supervisor=supervisor,
            )
            if arguments.wait and answer.answer == "accepted":
                if not arguments.json:
                    print(asking.words(answer), flush=True)
                answer = asking.follow(supervisor, config, answer)
    except (ConfigError, JournalError, RpcError) as error:
        return fail(error)
    if arguments.json:
        _print_json(answer._asdict())
    if answer.answer == asking.SILENT:
        fail(answer.reason)
    elif not arguments.json:
        print(asking.words(answer))
    return asking.exit_status(answer)


def _top(arguments: argparse.Namespace) -> int:
    from . import terminal, top, units
    from .config import ConfigError
    from .journal import JournalError

    if not arguments.once and not terminal.usable():
        arguments.json = False
        return _status(arguments)
    try:
        every = units.parse_time(arguments.every)
    except ValueError:
        every = 0.0
    if every < 0.5:
        return fail(f"--every {arguments.every}: valid: a time such as 2s or 1m, from 0.5s on")
    try:
        config = configuration(arguments, "top")
        if arguments.once:
            return top.once(config, arguments.names, arguments.sort)
        return top.run(config, arguments.names, arguments.sort, every)
    except (ConfigError, JournalError) as error:
        return fail(error)


def _check(arguments: argparse.Namespace) -> int:
    from . import rehearsal
    from .config import ConfigError

    try:
        config = configuration(arguments, "check", strict=True)
    except ConfigError as error:
        return fail(error)
    lines = []
    for line in rehearsal.rehearse(config, preflights=not arguments.no_preflight):
        lines.append(line)
        if not arguments.json:
            print(line, flush=True)
    if arguments.json:
        _print_json([line._asdict() for line in lines])
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


def _migrate(arguments: argparse.Namespace) -> int:
    from . import config, migrate
    from .config import ConfigError
    from .inifile import IniFile

    words = arguments.words[1:] if arguments.words[:1] == ["--"] else arguments.words
    try:
        if len(words) > 1 or migrate.is_command_line(words):
            found, ini = [migrate.of_command_line(words)], None
        else:
            ini = IniFile(config.find(words[0] if words else None, command="migrate"), os.environ)
            found = migrate.of_file(ini)
    except (migrate.MigrateError, ConfigError) as error:
        return fail(error)
    print(migrate.text(found, ini))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from . import demo

    return demo.run(keep=arguments.keep)
