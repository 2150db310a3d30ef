"""Mistakes in a user's input: telling them from bugs, and collecting them so that one start names all."""

from __future__ import annotations

import dis
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_SCRIPTS = ("__main__", "__mp_main__")  # the second in processes that multiprocessing starts


class Mistakes:
    """Errors of checks that do not depend on one another."""

    def __init__(self) -> None:
        self.errors: list[Exception] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note a `ValueError` or `OSError` that this package raises, instead of passing it on."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not raised_here(error):
                raise
            self.errors.append(error)

    def report(self) -> None:
        """Raise the error if there is one, and a `ValueError` with a line for each if there are several."""
        if len(self.errors) == 1:
            raise self.errors[0]
        if self.errors:
            causes = ExceptionGroup("mistakes", self.errors)  # with their tracebacks, for --log_level debug
            raise ValueError("\n".join(dict.fromkeys(map(str, self.errors)))) from causes


def report(messages: Iterable[str]) -> None:
    """Raise a `ValueError` with a line for each message, if there are any."""
    found = "\n".join(messages)
    if found:
        raise ValueError(found)


def raised_here(error: BaseException) -> bool:
    """Whether an exception comes from a `raise` of this package or of the script that runs, so is about the input.

    Not so if it comes from a library, an `assert`, or a function in C that our code calls (`zip(…, strict=True)`).
    """
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    if frame is None or isinstance(error, AssertionError):
        return False
    package = frame.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    raises = frame.tb_frame.f_code.co_code[frame.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raises and package in (__name__.partition(".")[0], *_SCRIPTS)
