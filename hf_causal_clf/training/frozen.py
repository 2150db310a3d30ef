"""Frozen layers that a training runs once: what is computed, by which process, where it is kept, and how much of it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainingArguments

from ..backbone.cache import computing_versions, remove_own, shared_folder
from ..backbone.frozen_layers import FrozenLayers
from ..backbone.frozen_states import FrozenStates, digest
from ..backbone.identity import fingerprint
from ..backbone.layers import decoder_layers, decoder_of, first_adapted_layer
from ..backbone.settings import model_identity
from ..cli.telling import tell
from ..runs.disk import naming_full_disk
from ..runs.files import UNFINISHED_FOLDER
from .arguments import AdapterModelArguments
from .processes import sharding

FOLDER = "frozen"
_SPARE = 0.9  # share of the free disk that may be filled
_CHECKED = 4  # sequences


def check_cache(arguments: TrainingArguments, *, cached: bool) -> None:
    """Check that frozen layers can be run once in a training, if that is asked for, before its model is loaded.

    Raises:
        ValueError: If weights are sharded, or the model is compiled.
    """
    found = sharding(arguments) or ("torch_compile" if arguments.torch_compile else None)
    if cached and found:
        raise ValueError(f"cache_frozen_layers is not possible with {found}. Leave one of the two out.")


def cache_frozen_layers(
    trainer: Trainer, model_arguments: AdapterModelArguments, sequences: Iterable[Sequence[int]]
) -> FrozenLayers | None:
    """Run the frozen layers once for each sequence of tokens of a training, if that is asked for.

    The states above them are kept in the unfinished part of the output folder, which goes away with the end of the run;
    in a comparison, in the folder that its runs share, where runs on the same documents find them. A start that goes on
    from a checkpoint finds what was computed. Where they would take more than `frozen_cache_gb`, or more than the disk
    has, nothing is kept. All processes have to call it.

    Args:
        trainer: The trainer, with its model.
        model_arguments: The model, and what is asked for.
        sequences: Token ids of all rows of its training and validation documents.

    Returns:
        The frozen layers; `None` where they are run each time.

    Raises:
        OSError: If the disk is full.
        ValueError: If the model's frozen layers cannot be left out.
    """
    if not model_arguments.cache_frozen_layers:
        return None
    decoder: Any = decoder_of(trainer.model)
    first = first_adapted_layer(model_arguments.lora_layers, len(decoder_layers(decoder)[1]))
    batch_size = trainer.args.per_device_eval_batch_size
    computed_in = [str(trainer.accelerator.mixed_precision), decoder.config._attn_implementation, batch_size]
    by_digest = {digest(ids): ids for ids in sequences}
    wanted = list(by_digest.values())
    # With other sequences beside it, a sequence would be padded and rounded otherwise
    content = [model_identity(model_arguments), first, computed_in, b"".join(sorted(by_digest)).hex()]
    mark = fingerprint([*content, computing_versions()])[:16]
    states = FrozenStates(_folder(Path(str(trainer.args.output_dir))) / mark, limit=math.inf)
    missing = [ids for ids in sorted(wanted, key=len) if ids not in states]
    token = decoder.config.get_text_config().hidden_size * decoder.get_input_embeddings().weight.itemsize
    size = states.size + sum(map(len, missing)) * token
    if shared_folder() is not None:
        _make_room(states.folder, model_arguments.frozen_cache_gb * 1e9 - size)
    states.limit = _limit(states, model_arguments.frozen_cache_gb)
    if size > states.limit:
        tell(
            f"All layers are run in every epoch: to keep what the frozen ones give would take {size / 1e9:.3g} GB, and "
            f"frozen_cache_gb and the disk allow {states.limit / 1e9:.3g}."
        )
        return None
    tell(f"The first {first} layers are frozen: run once, and what they give is kept ({size / 1e9:.2g} GB).")
    frozen = FrozenLayers(decoder, first, states)
    state = PartialState()
    state.wait_for_everyone()  # until all have looked at what is there
    with naming_full_disk(states.folder), trainer.accelerator.autocast():
        share = missing[state.process_index :: state.num_processes]
        states.write(frozen.compute(share, batch_size))
        state.wait_for_everyone()
        states.read()
        frozen.check(wanted[:_CHECKED])
    return frozen


def _make_room(folder: Path, allowed: float) -> None:
    """Remove what earlier runs have left beside a folder, the oldest first, until it is so many bytes at most."""
    others = [path for path in folder.parent.glob("?" * len(folder.name)) if path != folder and path.is_dir()]
    sizes = {path: sum(each.stat().st_size for each in path.glob("*.safetensors")) for path in others}
    for path in sorted(others, key=lambda path: path.stat().st_mtime):
        if sum(sizes.values()) > allowed:
            remove_own(path)
            del sizes[path]


def _folder(output: Path) -> Path:
    """Where states are kept: those of a run with folds in one place, and those of the runs of a comparison."""
    shared = shared_folder()
    if shared is not None:
        return shared
    whole = next((folder.parent for folder in output.parents if folder.name == UNFINISHED_FOLDER), output)
    return whole / UNFINISHED_FOLDER / FOLDER


def _limit(states: FrozenStates, gigabytes: float) -> float:
    """Most bytes that may be kept, the same in all processes: the main one looks at its disk."""
    folder = states.folder.resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    limit = [min(gigabytes * 1e9, states.size + _SPARE * shutil.disk_usage(existing).free)]
    return broadcast_object_list(limit)[0]
