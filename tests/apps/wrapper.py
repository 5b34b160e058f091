"""A start script that keeps what it started as a child: `python wrapper.py COMMAND...`."""

import signal
import subprocess
import sys

child = subprocess.Popen(sys.argv[1:])
for number in (signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: child.send_signal(number))
sys.exit(child.wait())
