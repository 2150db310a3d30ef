"""Layers below the first adapted one, run once for each sequence of tokens: later calls of the decoder start above.

What enters the first adapted layer depends on the tokens alone where no layer below it is trained and none drops out
states. In a call whose sequences are all known, the layers below hand their input on untouched, and the first adapted
layer reads the known states in its place. All else, such as position embeddings, masks and the last norm, is the
model's own forward, so it is right for every architecture whose layers pass on nothing but hidden states; `check` says
whether a model is one. Any other call, of unknown sequences or on top of a key-value cache, is run as ever.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache, PreTrainedModel

from .batching import evaluation_mode, pad, prediction_batches
from .frozen_states import FrozenStates
from .layers import decoder_layers

_PLAIN = {"input_ids", "attention_mask", "position_ids", "use_cache", "return_dict"}
_ROUNDING = {torch.float32: 1e-3}  # highest relative difference of last hidden states
_COARSE_ROUNDING = 0.05  # of other data types


class _Reached(Exception):
    """The layer that was to be reached is reached."""


class FrozenLayers:
    """Lets a decoder skip its frozen layers wherever the states above them are known.

    Args:
        decoder: The model below the head. Its frozen layers' `forward` is replaced, and it gets hooks.
        first: Number of frozen layers.
        states: What is known.

    Raises:
        ValueError: If weights outside the layers above are trained, or hidden states below are dropped out in training.
    """

    def __init__(self, decoder: PreTrainedModel, first: int, states: FrozenStates) -> None:
        self._decoder = decoder
        self.known = states
        layers = decoder_layers(decoder)[1]
        check_frozen(decoder, list(layers[first:]))
        self._layer = layers[first]
        self._skips = True
        self._given: torch.Tensor | None = None
        self._states: torch.Tensor | None = None  # of the call that goes on
        self._column = 0  # a call may take them in parts: those of a shared prefix first
        self._extra: int | None = None  # what a layer returns beside hidden states; `None` where it is no tuple
        for index, layer in enumerate(layers[:first]):
            layer.forward = self._skipping(layer.forward, index)
        self._inside = 0  # calls of modules that have the layers, one in the other
        for module in decoder.modules():  # OPT has a decoder in its decoder, and its language model calls the inner one
            if layers in module.children() or module is decoder:
                module.register_forward_pre_hook(self._start, with_kwargs=True)
                module.register_forward_hook(self._end, always_call=True)
        self._layer.register_forward_pre_hook(self._replace, with_kwargs=True)

    def compute(
        self, sequences: Sequence[Sequence[int]], batch_size: int
    ) -> Iterator[tuple[Sequence[int], torch.Tensor]]:
        """Run the frozen layers; yields each sequence with the states above them, `(tokens, hidden)`."""
        lengths = [len(ids) for ids in sequences]
        for rows in prediction_batches(self._decoder, lengths, batch_size, description="Running frozen layers"):
            found = self._reach(self._batch([sequences[row] for row in rows]))
            for row, states in zip(rows, found, strict=True):
                yield sequences[row], states[: lengths[row]].cpu().clone()

    def check(self, sequences: Sequence[Sequence[int]]) -> None:
        """Run a few sequences with and without what is known of them.

        Raises:
            ValueError: If that makes a difference: the model's layers pass on something else than hidden states.
        """
        batch = self._batch(sequences)
        with evaluation_mode(self._decoder):
            self._skips = False
            expected = self._decoder(**batch).last_hidden_state
            self._skips = True
            try:
                found = self._decoder(**batch).last_hidden_state
            except (AttributeError, KeyError, TypeError):  # what a layer would have handed on is missing
                found = torch.full_like(expected, torch.nan)
        real = batch["attention_mask"].bool()
        difference = (found - expected)[real].float().norm() / expected[real].float().norm()
        if not difference <= _ROUNDING.get(expected.dtype, _COARSE_ROUNDING):
            raise ValueError(
                f"cache_frozen_layers is not possible with {type(self._decoder).__name__}: its layers depend on more "
                "than each other's hidden states. Leave it out."
            )

    @contextmanager
    def given(self, states: torch.Tensor | None) -> Iterator[None]:
        """Start calls of the decoder from states, `(rows, tokens, hidden)`, whatever is known; `None`: as ever.

        The frozen layers' keys and values in a key-value cache mean nothing then.
        """
        self._given = states
        try:
            yield
        finally:
            self._given = None

    @contextmanager
    def seen(self) -> Iterator[list[torch.Tensor]]:
        """Give a list that what enters the first adapted layer is added to in each call of the decoder."""
        found: list[torch.Tensor] = []

        def note(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])

        handle = self._layer.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield found
        finally:
            handle.remove()

    def _batch(self, sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
        batch = {name: tensor.to(self._decoder.device) for name, tensor in pad(sequences, 0).items()}
        return {**batch, "use_cache": False}

    def _reach(self, batch: dict[str, Any]) -> torch.Tensor:
        """What enters the first adapted layer in a call of the decoder, which ends there."""

        def stop(layer: nn.Module, args: tuple[Any, ...]) -> None:
            raise _Reached

        with self.seen() as found:
            handle = self._layer.register_forward_pre_hook(stop)
            try:
                self._decoder(**batch)
            except _Reached:
                return found[0]
            finally:
                handle.remove()
        raise AssertionError("a decoder runs all its layers")

    def _start(self, decoder: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._inside += 1
        if self._inside > 1:
            return
        names = list(inspect.signature(type(decoder).forward).parameters)[1:]
        kwargs = {**dict(zip(names, args, strict=False)), **kwargs}
        known = self._look_up(kwargs) if self._skips and self._given is None else None
        self._states, self._column = known if self._given is None else self._given, 0

    def _end(self, decoder: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._inside -= 1
        if not self._inside:
            self._states = None

    def _look_up(self, kwargs: dict[str, Any]) -> torch.Tensor | None:
        """States for a call of the decoder, `(rows, length, hidden)`, zero for padding; `None` to run it as ever."""
        given = {name for name, value in kwargs.items() if value is not None and value is not False}
        input_ids, mask = kwargs.get("input_ids"), kwargs.get("attention_mask")
        if not given <= _PLAIN or kwargs.get("use_cache") is not False or input_ids is None or mask is None:
            return None
        if mask.shape != input_ids.shape or not _in_order(mask, kwargs.get("position_ids")):
            return None
        lengths = mask.sum(dim=1).tolist()
        found = []
        for ids, length in zip(input_ids.tolist(), lengths, strict=True):
            states = self.known.get(ids[:length])
            if states is None:
                return None
            found.append(states)
        filled = found[0].new_zeros(len(found), input_ids.shape[1], found[0].shape[1])
        for row, states in zip(filled, found, strict=True):
            row[: len(states)] = states
        return filled.to(input_ids.device)

    def _replace(
        self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Put the known states in the place of what enters the first adapted layer."""
        if self._states is None:
            return None
        given = args[0] if args else kwargs["hidden_states"]
        rows, length = given.shape[:2]
        states = self._states[:rows, self._column : self._column + length].to(given.dtype)
        self._column += length
        if given.requires_grad:  # asked for by checkpointing of activations
            states = states.detach().requires_grad_()
        return ((states, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": states})

    def _skipping(self, forward: Callable[..., Any], index: int) -> Callable[..., Any]:
        """A layer's `forward` that hands its input on where the states above are known."""

        @functools.wraps(forward)
        def skipping(*args: Any, **kwargs: Any) -> Any:
            if self._states is None:
                output = forward(*args, **kwargs)
                self._extra = len(output) - 1 if isinstance(output, tuple) else None
                return output
            hidden = args[0] if args else kwargs["hidden_states"]
            for value in (*args, *kwargs.values()):
                if isinstance(value, Cache):
                    _lengthen(value, index, hidden)
            return hidden if self._extra is None else (hidden, *[None] * self._extra)

        return skipping


def _lengthen(cache: Cache, index: int, hidden: torch.Tensor) -> None:
    """Add keys and values that mean nothing to a layer of a cache: a later call asks it for its length."""
    known = cache.layers[index].keys if index < len(cache.layers) else None
    heads, size = (1, 1) if known is None else (known.shape[1], known.shape[3])
    empty = hidden.new_zeros(1, 1, 1, 1).expand(len(hidden), heads, hidden.shape[1], size)
    cache.update(empty, empty, index)


def _in_order(mask: torch.Tensor, position_ids: torch.Tensor | None) -> bool:
    """Whether rows are padded on the right alone, and their tokens are at the positions 0, 1, 2 and so on."""
    real = mask.bool()
    if not bool((real[:, 1:] <= real[:, :-1]).all()):
        return False
    if position_ids is None:
        return True
    counted = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return position_ids.shape[-1] == mask.shape[1] and bool((position_ids.expand_as(mask) == counted)[real].all())


def check_frozen(decoder: PreTrainedModel, adapted: Sequence[nn.Module]) -> None:
    """Check that what enters the first adapted layer depends on the tokens alone, in training as in evaluation.

    Raises:
        ValueError: If weights below are trained, or hidden states are dropped out there in training.
    """
    above = {id(module) for layer in adapted for module in layer.modules()}
    below = {name: module for name, module in decoder.named_modules() if id(module) not in above}
    trained = [
        f"{name}.{part}".removeprefix(".")
        for name, module in below.items()
        for part, weight in module.named_parameters(recurse=False)
        if weight.requires_grad
    ]
    if trained:
        raise ValueError(
            "cache_frozen_layers needs all weights but those of the last layers frozen, but "
            f"{', '.join(trained[:3])} are trained. Leave cache_frozen_layers or what trains them out."
        )
    dropped = sorted({found for name, module in below.items() for found in _dropout(name, module)})
    if dropped:
        raise ValueError(
            f"cache_frozen_layers is not possible with dropout below the adapters: {', '.join(dropped[:3])} of "
            f"{type(decoder).__name__}. Each epoch would need other states. Set the dropout to 0 in the model's "
            "config.json, or leave cache_frozen_layers out."
        )


def _dropout(name: str, module: nn.Module) -> Iterator[str]:
    """Name the dropout of a module, in layers of its own or as a number that its forward uses."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        if module.p > 0:
            yield f"{name.rpartition('.')[2]}={module.p:g}"
        return
    for attribute, value in vars(module).items():
        if "drop" in attribute and isinstance(value, float) and value > 0:
            yield f"{attribute}={value:g}"
