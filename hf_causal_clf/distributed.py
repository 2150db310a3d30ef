"""Work shared out over the processes of `accelerate launch`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object


def over_processes(function: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> Any:
    """Apply a function of texts to this process's share of them and return the results for all, in order.

    Args:
        function: Returns an array or a list with one entry a text.
        texts: The texts of all processes. Each is worked on once.

    Returns:
        The whole array or list, in every process.
    """
    state = PartialState()
    if state.num_processes == 1:
        return function(texts)
    with state.split_between_processes(list(texts)) as share:
        parts = gather_object([function(share)])
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [item for part in parts for item in part]
