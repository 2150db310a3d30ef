"""Hidden states of token sequences on disk: unpadded, memory-mapped, found by the token ids. Knows no model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.utils import logging

from ..runs.disk import written_aside

logger = logging.get_logger(__name__)

FILE_BYTES = 2**28  # of states in a file, which are in memory until it is written


def digest(ids: Sequence[int]) -> bytes:
    """What a sequence of token ids is found by: 16 bytes."""
    return hashlib.blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=16).digest()


class FrozenStates:
    """The hidden states of token sequences, in safetensors files of a folder.

    Of a sequence with more than token ids, such as a tree of them, the ids may be any numbers that tell it from others.

    A file has `states`, `(tokens, hidden)` in the data type that they were computed in, the `lengths` of its
    sequences, int64, and their `digests`, uint8 `(sequences, 16)`.

    Args:
        folder: The folder; what is there already is known.
        limit: Most bytes of states that may be kept there.
    """

    def __init__(self, folder: Path, limit: float) -> None:
        self.folder = folder
        self.limit = limit
        self.size = 0  # bytes of states that are there
        self._places: dict[bytes, tuple[torch.Tensor, int, int]] = {}
        self.read()

    def read(self) -> None:
        """Take in the files of the folder, also those that other processes have written."""
        self._places.clear()
        self.size = 0
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                with safe_open(path, framework="pt") as file:
                    states = file.get_tensor("states")  # memory-mapped
                    digests, lengths = file.get_tensor("digests"), file.get_tensor("lengths").tolist()
            except SafetensorError as error:
                logger.warning(f"{path} is damaged ({error}): what it had is computed again.")
                path.unlink(missing_ok=True)
                continue
            self.size += states.nbytes
            starts = np.cumsum([0, *lengths[:-1]]).tolist()
            for key, start, length in zip(digests.numpy(), starts, lengths, strict=True):
                self._places[key.tobytes()] = (states, start, length)

    def __contains__(self, ids: Sequence[int]) -> bool:
        return digest(ids) in self._places

    def __len__(self) -> int:
        return len(self._places)

    def get(self, ids: Sequence[int]) -> torch.Tensor | None:
        """Return the states of a sequence, `(tokens, hidden)`; `None` where they are not known."""
        place = self._places.get(digest(ids))
        if place is None:
            return None
        states, start, length = place
        return states[start : start + length]

    def write(self, computed: Iterable[tuple[Sequence[int], torch.Tensor]]) -> None:
        """Write the states of sequences, `(tokens, hidden)` each, file by file. `read` takes them in."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in _parts(computed):
            keys = [digest(ids) for ids, _ in part]
            tensors = {
                "states": torch.cat([states.cpu() for _, states in part]),
                "lengths": torch.tensor([len(states) for _, states in part], dtype=torch.int64),
                "digests": torch.from_numpy(np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16).copy()),
            }
            with written_aside(self.folder / f"{keys[0].hex()}.safetensors") as aside:
                save_file(tensors, aside)


def _parts(
    computed: Iterable[tuple[Sequence[int], torch.Tensor]],
) -> Iterator[list[tuple[Sequence[int], torch.Tensor]]]:
    part: list[tuple[Sequence[int], torch.Tensor]] = []
    size = 0
    for ids, states in computed:
        part.append((ids, states))
        size += states.nbytes
        if size >= FILE_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part
