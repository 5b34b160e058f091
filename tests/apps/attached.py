"""A WSGI application that keeps a connection to a server of its own, at 127.0.0.1:$DATABASE."""

import os
import socket

import held

database = socket.create_connection(("127.0.0.1", int(os.environ["DATABASE"])))
app = held.app
