"""What documents there are to predict: their columns, their number, and where each shard of them lies."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .arguments import TEXT_NAMES
from .columns import settled_text_column
from .pieces import FileIndex, Piece, cut, index_file


@dataclass(frozen=True)
class Documents:
    """What documents there are.

    Attributes:
        text_column: Column of their texts.
        id_type: Type of their ids, which is that of the first.
        total: Their number; `None` where only reading them all would tell.
        pieces: Where each shard of files lies; `None` for documents that come in a stream.
    """

    text_column: str
    id_type: type
    total: int | None
    pieces: list[Piece] | None = None


@dataclass(frozen=True)
class Columns:
    """Which columns are looked for.

    Attributes:
        text: That of the texts, if it is given.
        id: That of the ids; `None` for the numbers of the rows.
        trained: That of the texts that a run was trained with, if that is known.
    """

    text: str | None = None
    id: str | None = None
    trained: str | None = None

    def names(self) -> list[str]:
        """Names that may be those of columns."""
        texts = [self.text] if self.text is not None else [self.trained, *TEXT_NAMES]
        return [name for name in (self.id, *texts) if name is not None]

    def find_text(self, source: str, columns: Sequence[str]) -> str:
        """Return the column of the texts among those of a file or data set, and check that of the ids.

        Raises:
            ValueError: If a column is missing, or it is not clear which is the text.
        """
        return settled_text_column(list(columns), source, self.trained, text_column=self.text, id_column=self.id)

    def id_type(self, row: dict[str, Any]) -> type:
        """Return the type of a row's id."""
        return int if self.id is None else type(row[self.id])


def plan_files(
    files: Sequence[str],
    size: int,
    columns: Columns,
    each: Callable[[Callable[[str], FileIndex], Sequence[str]], Iterable[FileIndex]] = map,
) -> Documents | None:
    """Look through files and cut them into shards; no shard has rows of two files.

    Args:
        files: Paths or URLs. Rows are numbered in their order.
        size: Rows a shard.
        columns: Which columns are looked for; all files need the same.
        each: Calls a function with each of the files, such as `map`.

    Returns:
        The documents; `None` if there are none.

    Raises:
        ValueError: If a file cannot be read, a column is missing, or it is not clear which is the text.
    """
    found = [index for index in each(partial(index_file, size=size, columns=columns.names()), files) if index.rows]
    if not found or found[0].first_row is None:
        return None
    text = columns.find_text(found[0].file, found[0].columns)
    for index in found[1:]:
        Columns(text, columns.id).find_text(index.file, index.columns)
    total = sum(index.rows for index in found)
    return Documents(text, columns.id_type(found[0].first_row), total, cut(found, size))
