"""held.py's application, which takes $IMPORT seconds to load."""

import os
import time

time.sleep(float(os.environ["IMPORT"]))

from held import app  # noqa: E402, F401
