"""Errors that are meant for the person who runs the program.

A `UserError` carries one sentence: what was wrong, the value received and the remedy. The command line prints that
sentence alone and exits with a non-zero code; every other exception is a defect of the program and keeps its traceback.
"""

__all__ = ["UserError"]


class UserError(ValueError):
    """What the user asked for cannot be done as asked; the message says why and what to do instead."""
