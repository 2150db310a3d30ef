"""What reaches the terminal of a script. Knows Python's logging and warnings, and what libraries say there."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_FOLDER = os.path.expanduser("~").rstrip(os.sep)  # empty for users whose home is the root: part of every path
_HOME = re.compile(re.escape(_FOLDER) + r"(?![\w.-])")  # but not a neighbour that begins alike


class _HomeHiding(logging.Formatter):
    """A handler's formatter, with the home folder named as ``~``."""

    def __init__(self, stock: logging.Formatter) -> None:
        self.stock = stock

    def format(self, record: logging.LogRecord) -> str:
        """Return the line that is written."""
        line = self.stock.format(record)
        return _HOME.sub("~", line) if _FOLDER else line


def hide_home_folder() -> None:
    """Have what libraries log to the terminal name the home folder as ``~``: for scripts, after their imports.

    Logs are pasted into bug reports, and at ``--log_level info`` transformers logs the whole path of each file that
    it reads.
    """
    named = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    writing = {each: [one for one in each.handlers if type(one) is not logging.NullHandler] for each in named}
    for logger, handlers in writing.items():
        logger.propagate = logger.propagate and not handlers  # what it has written is not written again by …
    rest = logging.StreamHandler()  # … this, for the loggers without a handler
    rest.setLevel(logging.WARNING)
    logging.basicConfig(handlers=[rest], format="%(message)s")  # unless there is one
    for handler in (handler for handlers in (*writing.values(), logging.root.handlers) for handler in handlers):
        if not isinstance(handler.formatter, _HomeHiding):
            handler.setFormatter(_HomeHiding(handler.formatter or logging.Formatter()))


# What a user can do nothing about, by name: the logger and the beginning of its message
_LOGGED: dict[str, str | tuple[str, ...]] = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",  # a faster kernel, on some processors
    "ray.data._internal.execution.streaming_executor": ("Starting execution", "Execution plan", "✔️"),
    "ray.data._internal.progress": "Progress bars disabled",
    "transformers.trainer_utils": "mtime may not be reliable on this filesystem",  # then by number, which is right
}
# … and the category and the beginning of a warning
_WARNED = {
    "`is_gradient_checkpointing` is deprecated": FutureWarning,  # PEFT and TRL read it
    "Paged optimizers are not supported on CPU": UserWarning,  # the same optimizer, unpaged, takes their place
}
_REPORT_ROW = re.compile(r"^(\S.*?)\s*\|\s*([A-Z]+)\b", re.MULTILINE)  # the head of the table is not in capitals
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def hide_by_name() -> None:
    """Keep from the terminal, in this process, what libraries say that a user can do nothing about: for scripts."""

    def concerns_the_user(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_LOGGED[record.name])

    for name in _LOGGED:
        logging.getLogger(name).addFilter(concerns_the_user)
    for beginning, category in _WARNED.items():
        warnings.filterwarnings("ignore", re.escape(beginning), category)


@contextmanager
def expected_weights(*, missing: Sequence[str] = (), unused: Sequence[str] = ()) -> Iterator[None]:
    """Hide transformers' report of weights that it has not found or not used, where all are of these modules.

    Args:
        missing: Beginnings of the names of weights that are new, such as a head's.
        unused: Beginnings of the names of weights that are not wanted.
    """
    known = {"MISSING": tuple(missing), "UNEXPECTED": tuple(unused)}

    def tells_more(record: logging.LogRecord) -> bool:
        message = _COLOURS.sub("", record.getMessage())
        rows = _REPORT_ROW.findall(message) if "LOAD REPORT" in message else []
        return not rows or not all(name.startswith(known.get(status, ())) for name, status in rows)

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(tells_more)
    try:
        yield
    finally:
        logger.removeFilter(tells_more)
