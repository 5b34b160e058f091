"""News arrives, in the shape of its target; a target in trouble holds up nothing and is no secret.

The receivers are real local servers; the backoff is shortened, nothing else.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from typing import Any

import pytest
import requests
import servers
from hypothesis import given
from hypothesis import strategies as st
from servers import Answer, Receiver, wait_until

from supervisor_memwatch import model, notifiers
from supervisor_memwatch.model import News, Verdict, Worker, WorkerId
from supervisor_memwatch.notifiers import Delivery, Notifier, redacted

WORKER = Worker(WorkerId(4711, 123456), age=600.0, rss=500, shared=10, anon=490, uss=480)
VERDICT = Verdict(model.LEAK, 100.0, 3.1, 1.0, 0.99, "+3.1MB/min for 12m", told=True, act=True)
NEWS = News(
    "acted",
    1769860805.25,
    "web:web_00",
    "worker 4711: leak, 600MB in 1h 1m; recycled, 380.0MB back",
    worker=WORKER,
    verdicts=(VERDICT,),
    action="recycle",
    outcome="done",
    freed=380,
    series=((1.0, 10.0), (2.0, 20.0)),
)
SECRET = "s3cr3t"


def news(number: int) -> News:
    return NEWS._replace(worker=WORKER._replace(id=WorkerId(number, 1)))


def results(notifier: Notifier, count: int, final: bool = True) -> list[Delivery]:
    """What came back, once `count` news are delivered or lost."""
    found: list[Delivery] = []

    def enough() -> bool:
        found.extend(notifier.drain())
        return sum(each.final for each in found) >= count

    wait_until(enough, 60, lambda: f"{count} deliveries, got {found}")
    return [each for each in found if each.final] if final else found


@pytest.fixture
def quick() -> Any:
    """A notifier that does not wait long between attempts."""
    notifier = Notifier("myhost", backoff=0.01)
    yield notifier
    notifier.close(0)


# -- what arrives


def test_a_news_is_a_cloudevents_envelope(quick: Notifier) -> None:
    with Receiver() as receiver:
        quick.send(NEWS, "id-1", [receiver.url])
        assert results(quick, 1) == [
            Delivery(f"http://127.0.0.1:{receiver.port}/...", "id-1", True, "delivered")
        ]
        (received,) = receiver.received
    assert received.headers["content-type"] == "application/cloudevents+json"
    assert received.headers["user-agent"].startswith("memwatch/")
    data = received.body.pop("data")
    assert received.body == {
        "specversion": "1.0",
        "id": "id-1",
        "source": "memwatch/myhost",
        "type": "memwatch.acted",
        "time": "2026-01-31T12:00:05.250Z",
        "subject": "web:web_00",
    }
    worker = data.pop("worker")
    assert (worker["pid"], worker["id"], worker["rss"]) == (4711, "4711:123456", 500)
    assert worker["start"] == NEWS.at - 600
    assert worker["pss"] is None
    verdict = json.loads(json.dumps(VERDICT._asdict()))
    assert worker["verdicts"] == data.pop("verdicts") == [verdict]
    assert data == {
        "summary": NEWS.summary,
        "program": "web:web_00",
        "action": "recycle",
        "outcome": "done",
        "freed_bytes": 380,
        "also_pid": None,
        "series": [[1.0, 10.0], [2.0, 20.0]],
        "evidence": None,
        "host": "myhost",
    }


def test_what_is_unknown_is_null() -> None:
    data = notifiers.envelope(News("held", 0.0, "web", "held"), "h", "i")["data"]
    names = ("worker", "action", "outcome", "freed_bytes", "evidence")
    assert [data[name] for name in names] == [None] * 5
    assert data["verdicts"] == data["series"] == []


def test_numbers_that_are_none_are_null(quick: Notifier) -> None:
    """JSON knows no NaN and no infinity."""
    odd = VERDICT._replace(measured=float("inf"), bound=float("nan"))
    with Receiver() as receiver:
        quick.send(NEWS._replace(verdicts=(odd,)), "1", [receiver.url])
        assert results(quick, 1)[0].ok
        verdict = receiver.bodies[0]["data"]["verdicts"][0]
    assert (verdict["measured"], verdict["bound"]) == (None, None)


@given(st.text(), st.floats(0, 4e9))
def test_any_text_and_time_makes_one_line_of_json(text: str, at: float) -> None:
    event = notifiers.envelope(News("held", at, "web", text), "h", "i")
    json.dumps(event).encode("ascii")
    assert len(event["data"]["summary"].splitlines()) <= 1
    assert len(event["time"]) == len("2026-01-31T12:00:05.250Z")


ADVICE = ("worker 7 of 2 leaks 60.0MB/h", "look in the request path")


def test_advice_goes_with_the_summary() -> None:
    """One line in the envelope, whose keys are fixed; a line for each sentence in a chat."""
    event = notifiers.envelope(NEWS._replace(advice=ADVICE), "h", "i")
    lines = [NEWS.summary, *ADVICE]
    assert event["data"]["summary"] == " · ".join(lines)
    assert event["data"].keys() == notifiers.envelope(NEWS, "h", "i")["data"].keys()
    slack = notifiers._shape("https://hooks.slack.com/x")(event)
    assert slack["text"].split("\n")[:3] == lines
    discord = notifiers._shape("https://discord.com/x")(event)
    assert discord["content"].count("\n") == 3
    (card,) = notifiers._shape("https://a.webhook.office.com/x")(event)["attachments"]
    assert [block["text"] for block in card["content"]["body"]][:3] == lines


EVIL = "<!channel> & @everyone @here <@U123> [a](http://evil) *b* `c` web_00 \x1b[31m"


def test_slack_gets_text_that_calls_nobody() -> None:
    for url in ("https://hooks.slack.com/services/x", "slack+https://chat.example/hooks/x"):
        event = notifiers.envelope(NEWS._replace(summary=EVIL), "myhost", "i")
        body = notifiers._shape(url)(event)
        assert list(body) == ["text"]
        first, second = body["text"].split("\n")
        assert first.startswith(
            "&lt;!channel&gt; &amp; @\u200beveryone @\u200bhere &lt;@\u200bU123"
        )
        assert second == "_acted: web:web_00 on myhost_"
        assert "<" not in body["text"] and "\x1b" not in body["text"]


@pytest.mark.parametrize("host", ["discord.com", "canary.discord.com", "discordapp.com"])
def test_discord_gets_content_that_calls_nobody(host: str) -> None:
    event = notifiers.envelope(NEWS._replace(summary=EVIL + "x" * 3000), "myhost", "i")
    body = notifiers._shape(f"https://{host}/api/webhooks/1/x")(event)
    assert body["allowed_mentions"] == {"parse": []}
    assert "@everyone" not in body["content"]
    assert r"\[a\](http://evil) \*b\* \`c\` web\_00" in body["content"]
    assert len(body["content"]) <= 2000


@pytest.mark.parametrize(
    "url",
    [
        "https://prod-1.westeurope.logic.azure.com:443/workflows/x/triggers/manual/paths/invoke",
        "https://x.environment.api.powerplatform.com/powerautomate/x",
        "https://acme.webhook.office.com/webhookb2/x",
    ],
)
def test_teams_gets_an_adaptive_card(url: str) -> None:
    body = notifiers._shape(url)(notifiers.envelope(NEWS, "myhost", "i"))
    (attachment,) = body["attachments"]
    assert body["type"] == "message"
    assert attachment["contentType"] == "application/vnd.microsoft.card.adaptive"
    assert attachment["content"]["type"] == "AdaptiveCard"
    summary, origin = (block["text"] for block in attachment["content"]["body"])
    assert summary == NEWS.summary
    assert origin == r"acted: web:web\_00 on myhost"


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hooks.slack.com",
        "https://nothooks.slack.com/x",
        "https://discord.com.example.com/x",
        "https://hooks.slack.com@example.com/x",
    ],
)
def test_a_look_alike_gets_the_envelope(url: str) -> None:
    event = notifiers.envelope(NEWS, "myhost", "i")
    assert notifiers._shape(url)(event) == event


def test_the_slack_prefix_is_not_part_of_the_address(quick: Notifier) -> None:
    with Receiver() as receiver:
        for number, prefix in enumerate(("slack+", "SLACK+")):
            quick.send(news(number), str(number), [prefix + receiver.url])
        assert all(each.ok for each in results(quick, 2))
        assert all(list(body) == ["text"] for body in receiver.bodies)
        assert receiver.received[0].headers["content-type"] == "application/json"


# -- trouble


def test_what_may_pass_is_tried_again_and_said_once(quick: Notifier) -> None:
    with Receiver(500, 503, 429) as receiver:
        quick.send(NEWS, "1", [receiver.url])
        said = results(quick, 1, final=False)
        assert [(each.ok, each.final, each.text) for each in said] == [
            (False, False, "HTTP 500; trying again"),
            (False, False, "HTTP 503; trying again"),
            (False, False, "HTTP 429; trying again"),
            (True, True, "delivered"),
        ]
        assert [body["id"] for body in receiver.bodies] == ["1"] * 4


def test_the_same_trouble_does_not_come_back_per_attempt(quick: Notifier) -> None:
    with Receiver(*[500] * 8) as receiver:
        quick.send(NEWS, "1", [receiver.url])
        said = results(quick, 1, final=False)
        assert [each.text for each in said] == ["HTTP 500; trying again", "delivered"]
        assert len(receiver.received) == 9


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413])
def test_what_will_not_pass_is_not_tried_again(quick: Notifier, status: int) -> None:
    with Receiver(status) as receiver:
        quick.send(NEWS, "1", [receiver.url])
        (lost,) = results(quick, 1)
        assert not lost.ok
        assert lost.text.startswith(f"not delivered: HTTP {status}")
        quick.send(news(2), "2", [receiver.url])
        assert results(quick, 1)[0].ok
        assert [body["id"] for body in receiver.bodies] == ["1", "2"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(quick: Notifier, status: int) -> None:
    with Receiver() as elsewhere:
        with Receiver(Answer(status, {"Location": elsewhere.url})) as receiver:
            quick.send(NEWS, "1", [receiver.url])
            (lost,) = results(quick, 1)
            assert lost.text.startswith(f"not delivered: HTTP {status}, a redirect")
            assert len(receiver.received) == 1
        assert elsewhere.received == []


def test_a_target_that_is_not_there_is_tried_until_the_news_is_too_old() -> None:
    notifier = Notifier("h", backoff=0.01, deadline=0.5)
    notifier.send(NEWS, "1", [f"http://127.0.0.1:{servers.free_port()}/{SECRET}"])
    first, last = results(notifier, 1, final=False)
    assert first.text == "connection refused; trying again"
    assert last.text == "not delivered: connection refused; it is too old now"
    notifier.close(0)


def test_a_target_that_comes_back_gets_what_waited(quick: Notifier) -> None:
    """In the order in which it happened."""
    receiver = Receiver()
    receiver.usual = 500
    for number in range(5):
        quick.send(news(number), str(number), [receiver.url])
    receiver.wait_for(3)
    receiver.usual = 200
    assert [each.news_id for each in results(quick, 5)] == ["0", "1", "2", "3", "4"]
    receiver.close()


@pytest.mark.parametrize("answer", [Answer(hang=True), Answer(500), Answer(trickle=True)])
def test_a_target_in_trouble_holds_up_no_other(
    answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifiers, "TIMEOUTS", (5.0, 60.0))
    notifier = Notifier("h", backoff=60)
    with Receiver() as bad, Receiver() as good:
        bad.usual = answer
        for number in range(20):
            notifier.send(news(number), str(number), [bad.url, good.url])
        good.wait_for(20)
        assert len(bad.received) < 20 or answer.trickle
        notifier.close(0)


def test_a_target_that_hangs_is_given_up_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "TIMEOUTS", (5.0, 0.2))
    notifier = Notifier("h", backoff=0.01)
    with Receiver(Answer(hang=True)) as receiver:
        notifier.send(NEWS, "1", [receiver.url])
        assert [each.ok for each in results(notifier, 1, final=False)] == [False, True]
    notifier.close(0)


def test_the_body_of_an_answer_is_never_read(quick: Notifier) -> None:
    """One that trickles a megabyte is delivered as soon as its status has come."""
    with Receiver(Answer(trickle=True)) as receiver:
        quick.send(NEWS, "1", [receiver.url])
        assert results(quick, 1)[0].ok


def test_the_queue_is_bounded_and_the_rest_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notifiers, "TIMEOUTS", (5.0, 60.0))
    notifier = Notifier("h", limit=3)
    with Receiver() as receiver:
        receiver.usual = Answer(hang=True)
        for number in range(10):
            notifier.send(news(number), str(number), [receiver.url])
        assert notifier.dropped == 7
        lost = notifier.drain()
        assert {each.text for each in lost} == {"not delivered: 3 news are waiting"}
        assert [each.news_id for each in lost] == [str(number) for number in range(3, 10)]
        notifier.close(0)


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("7", 7.0),
        ("0", 0.0),
        ("99999999999999999999", notifiers.LONGEST_WAIT),
        ("Fri, 01 Jan 2100 00:00:00 GMT", notifiers.LONGEST_WAIT),
        ("Fri, 01 Jan 1999 00:00:00 GMT", 0.0),
        ("-5", None),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_a_target_may_ask_for_patience_within_limits(
    retry_after: str | None, seconds: float | None
) -> None:
    assert notifiers._judge(429, retry_after).after == seconds


def test_pauses_grow_to_a_minute_and_are_never_the_same_for_all() -> None:
    notifier = Notifier("h", backoff=1)
    for attempts in [*range(1, 20), 10_000]:
        longest = min(2 ** (attempts - 1), 60)
        assert longest / 2 <= notifier._pause(attempts, None) <= longest
    assert len({notifier._pause(5, None) for _ in range(10)}) > 1
    assert notifier._pause(1, 30.0) == 30.0


# -- the same again


def test_the_same_news_goes_to_the_same_target_once_in_a_while() -> None:
    """The figures in it do not make it another."""
    now = 0.0
    notifier = Notifier("h", clock=lambda: now)
    with Receiver() as receiver, Receiver() as other:
        notifier.send(NEWS._replace(summary="600MB in 1h"), "1", [receiver.url])
        notifier.send(NEWS._replace(summary="550.5MB in 0h"), "2", [receiver.url])
        notifier.send(NEWS, "3", [other.url])
        notifier.send(NEWS._replace(what="failed"), "4", [receiver.url])
        notifier.send(NEWS._replace(namespec="api"), "5", [receiver.url])
        notifier.send(news(2), "6", [receiver.url])
        notifier.send(news(3), "7", [receiver.url], key="a")
        notifier.send(news(4), "8", [receiver.url], key="a")
        results(notifier, 6)
        now = 601.0
        notifier.send(NEWS._replace(summary="600MB in 1h"), "9", [receiver.url])
        results(notifier, 1)
        assert [body["id"] for body in receiver.bodies] == ["1", "4", "5", "6", "7", "9"]
        assert [body["id"] for body in other.bodies] == ["3"]
    notifier.close(0)


# -- the end


def test_closing_gives_what_waits_a_last_chance() -> None:
    notifier = Notifier("h", backoff=1000)
    with Receiver(500) as receiver:
        for number in range(3):
            notifier.send(news(number), str(number), [receiver.url])
        receiver.wait_for(1)
        notifier.close(60)
        assert [(each.news_id, each.ok) for each in notifier.drain() if each.final] == [
            ("0", True),
            ("1", True),
            ("2", True),
        ]
        notifier.send(news(9), "9", [receiver.url])
        assert len(receiver.received) == 4


def test_closing_tries_a_dead_target_once_more_and_no_longer() -> None:
    notifier = Notifier("h", backoff=1000)
    with Receiver() as receiver:
        receiver.usual = 500
        for number in range(3):
            notifier.send(news(number), str(number), [receiver.url])
        receiver.wait_for(1)
        notifier.close(60)
        lost = [each for each in notifier.drain() if each.final]
        assert [each.text for each in lost] == ["not delivered: HTTP 500"] * 3


def test_closing_does_not_wait_for_a_target_that_hangs() -> None:
    notifier = Notifier("h")
    with Receiver() as receiver:
        receiver.usual = Answer(hang=True)
        notifier.send(news(1), "1", [receiver.url])
        notifier.send(news(2), "2", [receiver.url])
        receiver.wait_for(1)
        notifier.close(0)
        lost = notifier.drain()
        assert [each.text for each in lost] == ["not delivered: memwatch ended before"] * 2


def test_a_listener_with_a_hanging_target_can_exit() -> None:
    """The sender does not keep the interpreter alive."""
    code = (
        "import sys; from supervisor_memwatch import notifiers;"
        "notifiers.TIMEOUTS = (5.0, 300.0); n = notifiers.Notifier('h');"
        "from supervisor_memwatch.model import News;"
        "n.send(News('held', 0.0, 'web', 'x'), '1', [sys.argv[1]]); sys.stdin.read();"
        "n.close(0.01); print(n.drain()[-1].text)"
    )
    with Receiver() as receiver:
        receiver.usual = Answer(hang=True)
        with subprocess.Popen(
            [sys.executable, "-c", code, receiver.url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            receiver.wait_for(1)
            out, err = process.communicate(timeout=60)
    assert (out, err, process.returncode) == ("not delivered: memwatch ended before\n", "", 0)


def test_no_thread_to_be_had_is_no_error(quick: Notifier, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise RuntimeError("can't start new thread")

    with Receiver() as receiver:
        with monkeypatch.context() as patched:
            patched.setattr(notifiers.threading.Thread, "start", refused)
            quick.send(news(1), "1", [receiver.url])
        quick.send(news(2), "2", [receiver.url])
        assert [each.news_id for each in results(quick, 2)] == ["1", "2"]


def test_nothing_runs_while_there_is_nothing_to_send(quick: Notifier) -> None:
    with Receiver() as receiver:
        quick.send(NEWS, "1", [receiver.url])
        results(quick, 1)
        wait_until(lambda: all(each.sender is None for each in quick._targets.values()))


# -- secrets and words


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"https://hooks.slack.com/services/{SECRET}", "https://hooks.slack.com/..."),
        (f"https://me:{SECRET}@host.example:8443/x", "https://host.example:8443/..."),
        (f"http://host?token={SECRET}", "http://host/..."),
        (f"http://host#{SECRET}", "http://host/..."),
        (f"http://host\\{SECRET}", "http://host/..."),
        (f"https://me:{SECRET}/x@host/", "https://.../..."),
        (f"slack+https://chat.example/hooks/{SECRET}", "slack+https://chat.example/..."),
        ("https://[::1]:8080/x", "https://[::1]:8080/..."),
        (SECRET, "(not a URL)"),
        ("https://a\x1b[31m/x", "https://a\\x1b[31m/..."),
    ],
)
def test_an_address_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert redacted(url) == shown
    assert SECRET not in redacted(url)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (f"http://127.0.0.1:1/{SECRET}", "connection refused"),
        (f"http://127.0.0.1:99999/{SECRET}", "not an address that can be posted to"),
        (f"http://[::1/{SECRET}", "not an address that can be posted to"),
        (f"http://a..b/{SECRET}", "not an address that can be posted to"),
        (f"ftp://host/{SECRET}", "not an address that can be posted to"),
    ],
)
def test_a_trouble_is_told_in_our_words(url: str, text: str) -> None:
    """Exceptions of requests carry the address."""
    (delivery,) = notifiers.test([url], "h", 0.0)
    assert not delivery.ok
    assert delivery.text == text
    assert SECRET not in repr(delivery)


def test_a_name_that_is_not_known_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, f"Name or service not known: {SECRET}")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    (delivery,) = notifiers.test([f"http://nowhere.invalid/{SECRET}"], "h", 0.0)
    assert delivery.text == "host name not known"


def test_something_that_is_no_web_server_is_told_in_our_words() -> None:
    """Neither HTTP, nor TLS where TLS was asked for."""
    with Receiver() as receiver:
        (tls,) = notifiers.test([receiver.url.replace("http", "https")], "h")
        assert tls.text.startswith("TLS failed")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def speak() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(100_000)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        thread = threading.Thread(target=speak)
        thread.start()
        (ssh,) = notifiers.test([f"http://127.0.0.1:{port}/{SECRET}"], "h")
        thread.join()
    assert ssh.text == "connection lost"


def test_an_unexpected_exception_is_an_answer(
    quick: Notifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError(SECRET)

    with Receiver() as receiver:
        with monkeypatch.context() as patched:
            patched.setattr(requests.Session, "post", broken)
            quick.send(news(1), "1", [receiver.url])
            (lost,) = results(quick, 1)
        assert lost.text == "not delivered: failed (KeyError)"
        quick.send(news(2), "2", [receiver.url])
        assert results(quick, 1)[0].ok


# -- `memwatch notify --test`, and what importing costs


def test_a_test_tries_each_target_once_and_says_how_it_went() -> None:
    with Receiver(500) as bad, Receiver() as good:
        found = notifiers.test([bad.url, good.url, "slack+" + good.url], "myhost", 0.0)
        assert [(each.ok, each.text) for each in found] == [
            (False, "HTTP 500"),
            (True, "delivered"),
            (True, "delivered"),
        ]
        assert [len(bad.received), len(good.received)] == [1, 2]
        assert good.bodies[0]["type"] == "memwatch.test"
        assert "memwatch on myhost" in good.bodies[1]["text"]


def test_requests_is_imported_at_the_first_news_and_not_before() -> None:
    code = (
        "import sys; from supervisor_memwatch import notifiers; from supervisor_memwatch.model"
        " import News; n = notifiers.Notifier('h'); before = 'requests' in sys.modules;"
        "n.send(News('held', 0.0, 'web', 'x'), '1', [sys.argv[1]]); n.close(60);"
        "print(before, 'requests' in sys.modules, n.drain()[0].text)"
    )
    with Receiver() as receiver:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code, receiver.url],
            capture_output=True,
            text=True,
            check=True,
        )
    assert done.stdout == "False True delivered\n"
    assert done.stderr == ""


def test_sending_is_another_threads_work(quick: Notifier, monkeypatch: pytest.MonkeyPatch) -> None:
    senders: list[str] = []
    attempt = notifiers._attempt

    def watched(message: Any) -> Any:
        senders.append(threading.current_thread().name)
        return attempt(message)

    monkeypatch.setattr(notifiers, "_attempt", watched)
    with Receiver() as receiver:
        quick.send(NEWS, "1", [receiver.url])
        results(quick, 1)
    assert senders == ["memwatch-news"]


def test_time_is_told_in_utc() -> None:
    at = time.time()
    text = notifiers._rfc3339(at)
    told = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert abs(told.timestamp() - at) < 0.002
