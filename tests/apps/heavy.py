"""leaky.py's application with $BALLAST bytes that every worker fills when it loads it, and $PEAK
bytes more that it holds only meanwhile; at /cache it reads $CACHE, which the kernel then keeps in
memory."""

import os

import leaky

ballast = b"x" * int(os.environ["BALLAST"])
bytes(bytearray(b"x") * int(os.environ.get("PEAK", "0")))


def app(environ, start_response):
    if environ["PATH_INFO"] == "/cache":
        with open(os.environ["CACHE"], "rb") as file:
            while file.read(1 << 20):
                pass
        environ["PATH_INFO"] = "/pid"
    return leaky.app(environ, start_response)
