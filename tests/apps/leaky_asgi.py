"""leaky.py's application, in FastAPI: for uvicorn's workers and for gunicorn's own `asgi`."""

import asyncio
import os

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from leak import leak

app = FastAPI()


@app.get("/", response_class=PlainTextResponse)
async def root():
    leak()
    return str(os.getpid())


@app.get("/pid", response_class=PlainTextResponse)
async def pid():
    return str(os.getpid())


@app.get("/slow/{seconds}", response_class=PlainTextResponse)
async def slow(seconds: float):
    await asyncio.sleep(seconds)
    return str(os.getpid())
