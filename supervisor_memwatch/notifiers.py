"""News to webhooks: JSON for machines, chat messages for Slack, Discord and Teams.

Covers: the shapes, and delivery that never holds up a look: each target has a sender of its own (a
thread, only while it has something to send), which retries with backoff until the news is too old.
How it went comes back as values from `drain`. Does not cover: which news is worth sending, and to
whom (the policy and the options), logging and journalling (the listener).

A webhook's address is a secret: it appears as scheme://host/... only, and since exceptions of
`requests` carry it, their text is never shown. `requests` is imported when there is something to
send: it costs 8 MB.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import __version__
from .model import News
from .report import verdict_json, worker_json
from .units import printable

TIMEOUTS = (3.05, 10.0)  # seconds to connect, and between two pieces of an answer
LONGEST_WAIT = 120.0  # however long a target asks us to wait
MAX_SERIES = 500  # points of a curve that go with a news

AND = " \u00b7 "  # between the sentences of a summary, which is one line

SLACK_PREFIX = "slack+"  # slack+https://...: a server that speaks Slack's format


class Delivery(NamedTuple):
    """How it went with one news and one target.

    `final`: it is delivered or lost, else it is tried again; of the attempts in between only the
    first with a new trouble comes back.
    """

    target: str  # redacted
    news_id: str
    ok: bool
    text: str
    final: bool = True


# -- shapes


def envelope(news: News, host: str, id: str) -> dict[str, Any]:
    """A news as a CloudEvents JSON envelope."""
    worker = news.worker
    return {
        "specversion": "1.0",
        "id": id,
        "source": f"memwatch/{host}",
        "type": f"memwatch.{news.what}",
        "time": _rfc3339(news.at),
        "subject": news.namespec or None,  # of a test there is none, and "" is no CloudEvent
        "data": {
            "summary": AND.join(printable(text, 1000) for text in (news.summary, *news.advice)),
            "program": news.namespec,
            "worker": worker and {**worker_json(worker, news.at, news.verdicts), **news.figures},
            "verdicts": [verdict_json(verdict) for verdict in news.verdicts],
            "action": news.action,
            "outcome": news.outcome,
            "freed_bytes": news.freed,
            "also_pid": news.also and news.also.pid,
            "series": [list(point) for point in news.series[-MAX_SERIES:]],
            "evidence": None,
            "host": host,
        },
    }


def _rfc3339(at: float) -> str:
    milliseconds = int(at * 1000)
    text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{text}.{milliseconds % 1000:03d}Z"


def _unmentioned(text: str) -> str:
    """No @everyone and no @channel: names in foreign text call nobody."""
    return text.replace("@", "@\u200b")


def _markdown(text: str) -> str:
    return _unmentioned(re.sub(r"([\\`*_\[\]~|])", r"\\\1", text))


def _slack(event: dict[str, Any]) -> dict[str, Any]:
    def plain(text: str) -> str:
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        return _unmentioned(escaped)

    return {"text": f"{plain(_said(event))}\n_{plain(_origin(event))}_"}


def _discord(event: dict[str, Any]) -> dict[str, Any]:
    text = f"{_markdown(_said(event))}\n-# {_markdown(_origin(event))}"
    return {"content": text[:2000], "allowed_mentions": {"parse": []}}


def _teams(event: dict[str, Any]) -> dict[str, Any]:
    """An Adaptive Card, as Teams' Workflows take it."""
    blocks = [
        *(
            {"type": "TextBlock", "text": _markdown(text), "wrap": True}
            for text in _said(event).split("\n")
        ),
        {"type": "TextBlock", "text": _markdown(_origin(event)), "isSubtle": True, "wrap": True},
    ]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": blocks,
    }
    attachment = {"contentType": "application/vnd.microsoft.card.adaptive", "content": card}
    return {"type": "message", "attachments": [attachment]}


def _said(event: dict[str, Any]) -> str:
    """The summary, its sentences below each other."""
    text: str = event["data"]["summary"]
    return text.replace(AND, "\n")


def _origin(event: dict[str, Any]) -> str:
    what = event["type"].rpartition(".")[2].replace("_", " ")
    return printable(f"{what}: {event['subject'] or 'memwatch'} on {event['data']['host']}")


def _as_it_is(event: dict[str, Any]) -> dict[str, Any]:
    return event


Shape = Callable[[dict[str, Any]], dict[str, Any]]

# The hosts, with all below them, that want a shape of their own.
SHAPES: dict[str, Shape] = {
    "hooks.slack.com": _slack,
    "discord.com": _discord,
    "discordapp.com": _discord,
    "logic.azure.com": _teams,
    "api.powerplatform.com": _teams,
    "webhook.office.com": _teams,
}


def _shape(target: str) -> Shape:
    if _without_prefix(target) != target:
        return _slack
    host = _place(target).rpartition(":")[0] or _place(target)
    for known, shape in SHAPES.items():
        if host == known or host.endswith("." + known):
            return shape
    return _as_it_is


# -- addresses


def _without_prefix(target: str) -> str:
    """The address itself: schemes are spelled in any case."""
    if target[: len(SLACK_PREFIX)].lower() == SLACK_PREFIX:
        return target[len(SLACK_PREFIX) :]
    return target


def _place(target: str) -> str:
    """host:port of a URL, in lower case; empty where it cannot be told from a password."""
    authority, _, path = re.sub(r"[/?#\\]", "/", target.partition("://")[2]).partition("/")
    if "@" in path and "@" not in authority:
        return ""  # https://user:pass/word@host/
    return authority.rpartition("@")[2].lower()


def redacted(target: str) -> str:
    """What may be shown of a webhook's address: scheme://host/..."""
    scheme, found, _ = target.partition("://")
    if not found:
        return "(not a URL)"
    return printable(f"{scheme}://{_place(target) or '...'}/...", 100)


# -- one attempt


class _Answer(NamedTuple):
    ok: bool
    text: str  # in our words: nothing of the URL, nothing the target said
    again: bool = False  # worth another attempt
    after: float | None = None  # seconds the target asks us to wait


class _Message(NamedTuple):
    target: str
    news_id: str
    body: bytes
    content_type: str


def _message(target: str, event: dict[str, Any]) -> _Message:
    import json

    shape = _shape(target)
    kind = "application/cloudevents+json" if shape is _as_it_is else "application/json"
    try:
        body = json.dumps(shape(event), allow_nan=False)
    except ValueError:  # NaN and infinity are no JSON
        plain = json.loads(json.dumps(event), parse_constant=lambda _: None)
        body = json.dumps(shape(plain))
    return _Message(target, event["id"], body.encode(), kind)


def _attempt(message: _Message) -> _Answer:
    """POST once. Whatever happens is an answer: a thread has nobody above it to catch."""
    try:
        import requests
    except Exception as error:
        return _Answer(False, f"requests cannot be imported: {type(error).__name__}")
    try:
        with (
            requests.Session() as session,
            session.post(
                _without_prefix(message.target),
                data=message.body,
                headers={
                    "Content-Type": message.content_type,
                    "User-Agent": f"memwatch/{__version__}",
                },
                timeout=TIMEOUTS,
                allow_redirects=False,
                stream=True,  # the answer's body is never read
            ) as response,
        ):
            return _judge(response.status_code, response.headers.get("Retry-After"))
    except Exception as error:
        return _trouble(error)


def _judge(status: int, retry_after: str | None) -> _Answer:
    if 200 <= status < 300:
        return _Answer(True, "delivered")
    if 300 <= status < 400:
        return _Answer(False, f"HTTP {status}, a redirect: configure the address it leads to")
    if status == 429 or status >= 500:
        return _Answer(False, f"HTTP {status}", again=True, after=_seconds(retry_after))
    return _Answer(False, f"HTTP {status}: is the address right, and still valid?")


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After, as seconds or as a date; None if it is neither."""
    if not retry_after:
        return None
    if retry_after.strip().isdecimal():
        return min(float(retry_after), LONGEST_WAIT)
    from email.utils import parsedate_to_datetime

    try:
        seconds = parsedate_to_datetime(retry_after).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT)


def _trouble(error: Exception) -> _Answer:
    """An exception of requests in our words: its own carry the address."""
    import socket

    from requests import exceptions as kinds

    chain = list(_causes(error))

    def among(*types: type[BaseException]) -> bool:
        return any(isinstance(each, types) for each in chain)

    if isinstance(error, kinds.ConnectTimeout):
        return _Answer(False, f"no connection within {TIMEOUTS[0]:.0f} s", again=True)
    if isinstance(error, kinds.Timeout):
        return _Answer(False, f"no answer within {TIMEOUTS[1]:.0f} s", again=True)
    if isinstance(error, kinds.SSLError):
        return _Answer(False, "TLS failed: is its certificate valid and known here?", again=True)
    if isinstance(error, kinds.ProxyError):
        return _Answer(False, "the proxy does not lead there", again=True)
    if isinstance(error, (kinds.ConnectionError, kinds.ChunkedEncodingError)):
        if among(socket.gaierror):
            return _Answer(False, "host name not known", again=True)
        if among(ConnectionRefusedError):
            return _Answer(False, "connection refused", again=True)
        return _Answer(False, "connection lost", again=True)
    if isinstance(error, ValueError):  # InvalidURL and its like
        return _Answer(False, "not an address that can be posted to")
    return _Answer(False, f"failed ({type(error).__name__})")


def _causes(error: BaseException) -> Iterable[BaseException]:
    """The exceptions an exception was made of, however they were wrapped."""
    seen: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(seen) < 20:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in seen:
            seen.append(each)
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]
    return seen


# -- delivery


@dataclass(slots=True)
class _Waiting:
    message: _Message
    until: float  # when it is too old, on the notifier's clock


@dataclass(slots=True)
class _Target:
    """One webhook: what waits for it, and what was said of it."""

    name: str  # redacted
    waiting: deque[_Waiting] = field(default_factory=deque)
    sender: threading.Thread | None = None
    trouble: str = ""  # why the last attempt failed; empty when it did not


class Notifier:
    """Sends news in the background.

    host: the name of this machine, as it stands in the news; by default what it calls itself.
    limit: news that may wait, all targets together; more are dropped and counted.
    deadline: seconds after which a news is too old to be delivered.
    repeat: seconds within which the same news goes to the same target once.
    backoff: seconds before the second attempt; doubled each time, up to a minute.
    """

    def __init__(
        self,
        host: str | None = None,
        *,
        limit: int = 100,
        deadline: float = 600.0,
        repeat: float = 600.0,
        backoff: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.host = host or os.uname().nodename
        self.dropped = 0
        self._limit = limit
        self._deadline = deadline
        self._repeat = repeat
        self._backoff = backoff
        self._clock = clock
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._targets: dict[str, _Target] = {}
        self._sent: dict[tuple[object, ...], float] = {}
        self._results: deque[Delivery] = deque(maxlen=1000)

    def send(self, news: News, id: str, targets: Iterable[str], key: str = "") -> bool:
        """Queue a news, under an id of its own, for each of the targets. Never waits.

        False: it waits for none of them (there are none, or each got the same just before).

        `key` says what makes two news the same; by default what happened, to whom, for which
        reason, whatever the figures.
        """
        event = envelope(news, self.host, id)
        return sum(self._queue(news, target, key, event) for target in targets) > 0

    def drain(self) -> list[Delivery]:
        """How it went since the last call, oldest first."""
        with self._lock:
            results = list(self._results)
            self._results.clear()
        return results

    def close(self, timeout: float = 5.0) -> None:
        """One last attempt for everything that waits, within `timeout` seconds for all."""
        self._closing.set()
        end = time.monotonic() + timeout
        for target in list(self._targets.values()):
            if target.sender is not None:
                target.sender.join(max(0.0, end - time.monotonic()))
        with self._lock:
            for target in self._targets.values():
                for waiting in target.waiting:
                    self._lost(target, waiting.message.news_id, "memwatch ended before")
                target.waiting.clear()

    def _queue(self, news: News, url: str, key: str, event: dict[str, Any]) -> bool:
        now = self._clock()
        with self._lock:
            if self._closing.is_set() or self._is_repeated(news, url, key, now):
                return False
            target = self._targets.setdefault(url, _Target(redacted(url)))
            if sum(len(each.waiting) for each in self._targets.values()) >= self._limit:
                self.dropped += 1
                self._lost(target, event["id"], f"{self._limit} news are waiting")
                return False
            target.waiting.append(_Waiting(_message(url, event), now + self._deadline))
            if target.sender is None:
                target.sender = self._start(target)
        return True

    def _start(self, target: _Target) -> threading.Thread | None:
        sender = threading.Thread(
            target=self._deliver, args=(target,), name="memwatch-news", daemon=True
        )
        try:
            sender.start()
        except RuntimeError:  # no thread to be had: tried again with the next news
            return None
        return sender

    def _is_repeated(self, news: News, url: str, key: str, now: float) -> bool:
        recent = {name: at for name, at in self._sent.items() if now - at < self._repeat}
        same = (url, news.what, news.namespec, key or _gist(news))
        repeated = same in recent
        recent.setdefault(same, now)
        self._sent = recent
        return repeated

    # What follows runs in the sender of one target.

    def _deliver(self, target: _Target) -> None:
        """Deliver what waits, oldest first; ends when nothing waits any more."""
        while True:
            with self._lock:
                if not target.waiting:
                    target.sender = None
                    return
                waiting = target.waiting[0]
            self._deliver_one(target, waiting)
            with self._lock:
                if target.waiting and target.waiting[0] is waiting:
                    target.waiting.popleft()

    def _deliver_one(self, target: _Target, waiting: _Waiting) -> None:
        id = waiting.message.news_id
        attempts = 0
        while self._clock() < waiting.until:
            answer = _attempt(waiting.message)
            attempts += 1
            if answer.ok or not answer.again or self._closing.is_set():
                with self._lock:
                    if answer.ok:
                        self._delivered(target, id)
                    else:
                        target.trouble = answer.text
                        self._lost(target, id, answer.text)
                return
            with self._lock:
                self._failing(target, id, answer.text)
            pause = self._pause(attempts, answer.after)
            self._closing.wait(min(pause, max(0.0, waiting.until - self._clock())))
        with self._lock:
            self._lost(target, id, f"{target.trouble or 'others came first'}; it is too old now")

    def _pause(self, attempts: int, after: float | None) -> float:
        """Seconds until the next attempt: what the target asks for, else longer each time."""
        longest = min(self._backoff * 2.0 ** min(attempts - 1, 10), 60.0)
        return max(random.uniform(longest / 2, longest), after or 0.0)

    # With the lock held: what comes back.

    def _delivered(self, target: _Target, id: str) -> None:
        target.trouble = ""
        self._results.append(Delivery(target.name, id, True, "delivered"))

    def _failing(self, target: _Target, id: str, trouble: str) -> None:
        if trouble != target.trouble:
            target.trouble = trouble
            text = f"{trouble}; trying again"
            self._results.append(Delivery(target.name, id, False, text, final=False))

    def _lost(self, target: _Target, id: str, trouble: str) -> None:
        self._results.append(Delivery(target.name, id, False, f"not delivered: {trouble}"))


def _gist(news: News) -> tuple[object, ...]:
    """What a news says, without the figures that differ each time it is said."""
    return (
        news.worker.id if news.worker else None,
        tuple(verdict.kind for verdict in news.verdicts),
        news.action,
        news.outcome,
        re.sub(r"[\d.]+", "", news.summary),
    )


def test(
    targets: Iterable[str], host: str | None = None, at: float | None = None
) -> list[Delivery]:
    """One attempt to send a test message to each target, now and here."""
    host = host or os.uname().nodename
    now = time.time() if at is None else at
    id = f"test@{now:.3f}"
    event = envelope(
        News("test", now, "", f"A test message: news of {host} arrives here."), host, id
    )
    results = []
    for target in targets:
        answer = _attempt(_message(target, event))
        results.append(Delivery(redacted(target), id, answer.ok, answer.text))
    return results
