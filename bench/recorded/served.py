"""The recorded applications: one behaviour behind one web framework, as the environment says.

    MEMWATCH_RECORDED = {"framework", "behaviour", "parameters", "directory", "begin"}   (JSON)

gunicorn serves `served:application` (`served:make` for aiohttp, which wants it made in the worker).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable
from typing import Any

import behaviours
import everyday
from counter import Counter

_SPEC = json.loads(os.environ["MEMWATCH_RECORDED"])
_COUNTER = Counter(_SPEC["directory"])
_BEHAVIOUR = behaviours.make(_SPEC["behaviour"], _COUNTER, _SPEC["begin"], _SPEC["parameters"])
_STARTED: list[int] = []
_STARTING = threading.Lock()


def serve(path: str) -> bytes:
    """What every framework below does with a request."""
    if os.getpid() not in _STARTED:
        with _STARTING:
            if os.getpid() not in _STARTED:
                _BEHAVIOUR.random.seed()  # forked: else all would draw the same
                _BEHAVIOUR.start()
                _STARTED[:] = [os.getpid()]
    _BEHAVIOUR.work(_COUNTER.served(), path)
    body = _BEHAVIOUR.answer()
    _COUNTER.write()
    return body


def _bare() -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        body = serve(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]

    return application


def _flask() -> Any:
    import flask

    application = flask.Flask("served")

    @application.route("/", defaults={"path": ""})
    @application.route("/<path:path>")
    def view(path: str) -> flask.Response:
        page = flask.render_template_string("<p>{{ path }}</p>" * 5, path=path)
        return flask.Response(serve("/" + path) + page.encode(), mimetype="text/plain")

    return application


def _django() -> Any:
    import django
    from django.conf import settings
    from django.core.wsgi import get_wsgi_application
    from django.http import HttpRequest, HttpResponse
    from django.urls import re_path

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse(serve(request.path), content_type="text/plain")

    settings.configure(
        DEBUG=False,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="only for this recording",
        ROOT_URLCONF=(re_path("", view),),
        MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    django.setup()
    return get_wsgi_application()


def _fastapi() -> Any:
    from fastapi import FastAPI, Response

    application = FastAPI()

    def view(path: str) -> Response:
        return Response(serve("/" + path), media_type="text/plain")

    async def leaving(path: str) -> Response:
        response = view(path)
        if isinstance(_BEHAVIOUR, everyday.Tasks):
            _BEHAVIOUR.leave()
        return response

    tasks = isinstance(_BEHAVIOUR, everyday.Tasks)
    application.get("/{path:path}")(leaving if tasks else view)
    return application


async def make() -> Any:
    """aiohttp's application, with the middleware that its leak of 404s needs."""
    from aiohttp import web

    @web.middleware
    async def middleware(request: web.Request, handler: Any) -> Any:
        return await handler(request)

    async def view(request: web.Request) -> web.Response:
        return web.Response(body=serve(request.path))

    @web.middleware
    async def counting(request: web.Request, handler: Any) -> Any:
        if request.path.startswith("/missing"):
            serve(request.path)
        return await handler(request)

    application = web.Application(middlewares=[middleware, counting])
    application.router.add_get("/", view)
    return application


_FRAMEWORKS = {"bare": _bare, "flask": _flask, "django": _django, "fastapi": _fastapi}

if _SPEC["framework"] in _FRAMEWORKS:
    application = _FRAMEWORKS[_SPEC["framework"]]()
