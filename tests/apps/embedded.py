"""gunicorn inside another program: `python embedded.py BIND WORKERS [fork]`. Its command line
does not name gunicorn. With `fork` the master is a forked child of the program."""

import multiprocessing
import sys

from decoys import app
from gunicorn.app.base import BaseApplication


class Embedded(BaseApplication):
    def load_config(self):
        self.cfg.set("bind", sys.argv[1])
        self.cfg.set("workers", int(sys.argv[2]))

    def load(self):
        return app


if __name__ == "__main__":
    if sys.argv[3:] == ["fork"]:
        server = multiprocessing.get_context("fork").Process(target=Embedded().run)
        server.start()
        server.join()
    else:
        Embedded().run()
