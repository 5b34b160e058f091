"""leaky.py's application, in Flask."""

import os
import time

from flask import Flask
from leak import leak

app = Flask(__name__)


@app.get("/")
def root():
    leak()
    return str(os.getpid())


@app.get("/pid")
def pid():
    return str(os.getpid())


@app.get("/slow/<seconds>")
def slow(seconds):
    time.sleep(float(seconds))
    return str(os.getpid())
