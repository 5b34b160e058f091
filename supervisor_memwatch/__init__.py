"""A memory watchdog for gunicorn under Supervisor.

On each TICK, for each watched program: sample its gunicorn master and workers,
examine their recent history, decide, write the plan down, carry it out one look
at a time, write down how it went, and tell whoever should know.
"""

__version__ = "0.1.0"
