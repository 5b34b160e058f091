"""`python -m supervisor_memwatch` is the same as `memwatch`."""

import sys

from .cli import main

sys.exit(main())
