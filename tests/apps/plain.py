"""A program without gunicorn that leaks (leak.py): `python plain.py MEGABYTES`, at most so much."""

import sys
import time

from leak import BYTES, kept, leak

while True:
    if len(kept) * BYTES < int(sys.argv[1]) * 1_000_000:
        leak()
    time.sleep(0.02)
