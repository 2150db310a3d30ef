"""The entries of `classification.json`: which there are, what they may be, and how earlier versions had them.

Knows JSON values only; `Run` makes its objects of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from transformers.utils import logging

from ..task.tokens import LONG_DOCUMENTS, TRUNCATION_SIDES

logger = logging.get_logger(__name__)

SCHEMA_VERSION = 3
APPROACHES = ("embedding", "instruction")
KINDS = {  # of runs: the two approaches, the baselines that are runs, and several of these in one, in words
    "embedding": "embedding-based",
    "instruction": "instruction-based",
    "tfidf": "TF-IDF and logistic regression",
    "frozen": "frozen language model with a head",
    "encoder": "fine-tuned encoder",
    "combination": "combination of runs",
    "cascade": "cascade of two runs",
}
POOLINGS = ("last", "mean")
HEAD_INITS = ("random", "verbalizer", "probe")
_DTYPES = ("auto", "bfloat16", "float16", "float32", "float64")
_PROMPT = ("prompt_template", "verbalizer")

Kind = tuple[str, Callable[[Any], bool]]  # what is allowed, in words and as a check


def _one_of(values: tuple[str, ...]) -> Kind:
    return f"one of {list(values)}", values.__contains__


def _or_null(kind: Kind) -> Kind:
    allowed, fits = kind
    return f"{allowed}, or null", lambda value: value is None or fits(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


_TEXT: Kind = ("a text", _is_text)
_FLAG: Kind = ("true or false", lambda value: isinstance(value, bool))
_OBJECT: Kind = ("an object", lambda value: isinstance(value, dict))
_COUNT: Kind = ("a whole number from 0 on", lambda value: type(value) is int and value >= 0)
_LENGTH: Kind = ("a whole number above 0", lambda value: type(value) is int and value > 0)
_TEXTS: Kind = ("a list of texts", _are(_is_text))
_NUMBERS: Kind = ("a list of numbers", _are(_is_number))
_NUMBER: Kind = ("a number, a list of numbers", lambda value: _is_number(value) or _are(_is_number)(value))
_SHARE: Kind = ("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_LIMITS: Kind = ("a list of numbers or null", _are(lambda value: value is None or _is_number(value)))
_SCORES: Kind = ("a list of lists of numbers", _are(_are(_is_number)))
_ANSWERS: Kind = (
    "an object of texts",
    lambda value: isinstance(value, dict) and all(map(_is_text, value.values())),
)

_MEMBERS: Kind = (
    "an object of weights above 0 by the members' names (letters, digits, - and _)",
    lambda value: (
        isinstance(value, dict)
        and all(re.fullmatch("[A-Za-z0-9_-]+", name) for name in value)
        and all(_is_number(weight) and 0 < weight < math.inf for weight in value.values())
    ),
)

# Those of an object stand below it
_ENTRIES: dict[str, Kind] = {
    "hf_causal_clf_version": _TEXT,
    "approach": _one_of(tuple(KINDS)),
    "pooling": _or_null(_one_of(POOLINGS)),
    "head_init": _or_null(_one_of(HEAD_INITS)),
    "prompt_template": _or_null(_OBJECT),
    "prompt_template.instruction": _or_null(_TEXT),
    "prompt_template.use_chat_template": _FLAG,
    "prompt_template.answer_tokens": _or_null(_COUNT),
    "verbalizer": _or_null(_OBJECT),
    "verbalizer.answers": _ANSWERS,
    "verbalizer.delimiter": _TEXT,
    "verbalizer.empty_answer": _TEXT,
    "document_suffix": _or_null(_TEXT),
    "members": _or_null(_MEMBERS),
    "cascade_threshold": _or_null(_SHARE),
    "label_space": _OBJECT,
    "label_space.names": _TEXTS,
    "label_space.multi_label": _FLAG,
    "problem_type": _TEXT,
    "truncation": _OBJECT,
    "truncation.max_length": _or_null(_LENGTH),
    "truncation.side": _one_of(TRUNCATION_SIDES),
    "truncation.long_documents": _one_of(LONG_DOCUMENTS),
    "temperature": _or_null(_NUMBER),
    "thresholds": _or_null(_NUMBERS),
    "abstention": _or_null(_OBJECT),
    "abstention.target_error": _NUMBER,
    "abstention.thresholds": _LIMITS,
    "base_model": _OBJECT,
    "base_model.name_or_path": _or_null(_TEXT),
    "base_model.revision": _or_null(_TEXT),
    "base_model.dtype": _or_null(_one_of(_DTYPES)),
    "base_model.quantization": _or_null(_OBJECT),
    "training": _OBJECT,
    "conformal": _or_null(_OBJECT),
    "conformal.lac": _SCORES,
    "conformal.aps": _SCORES,
}
_MAY_LACK = (
    "prompt_template.answer_tokens",
    "truncation.long_documents",
    "cascade_threshold",
    "abstention",
    "conformal",
)
_NEW_IN_3: dict[str, Any] = {"document_suffix": None, "members": None}


def current(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Return the content of `classification.json` as this version writes it, each entry checked.

    Args:
        data: The content, of this version or an earlier one.
        source: Where it is from, for errors.

    Raises:
        ValueError: If it is of a version that is not known, or an entry is missing or wrong.
    """
    version = data.get("schema_version")
    if version == 1:
        data = _from_version_2(_from_version_1(data, source))
    elif version == 2:
        data = _from_version_2(data)
    elif version != SCHEMA_VERSION:
        raise ValueError(
            f"{source} has schema version {version!r}, but this version of hf_causal_clf reads 1 to "
            f"{SCHEMA_VERSION}. Install the version of hf_causal_clf that wrote it."
        )
    if data.get("approach") not in tuple(KINDS):
        raise ValueError(
            f"{source} has the approach {data.get('approach')!r}; known are {list(KINDS)}. Train or download it again."
        )
    _check_entries(data, source)
    return data


def _from_version_1(data: dict[str, Any], source: str) -> dict[str, Any]:
    """Fill in what version 1 left out where a run has none of it."""
    heads = {"embedding": "random"}  # before they could start from the labels' own words, no run said how they did
    absent = dict.fromkeys(("pooling", *_PROMPT)) | {"head_init": heads.get(str(data.get("approach"))), "training": {}}
    data = {**absent, **data}
    template = data["prompt_template"]
    if isinstance(template, dict) and template.get("use_chat_template"):
        logger.warning_once(
            f"{source} was written by an earlier version. The first of them made other token ids of a chat template "
            "with some tokenizers: if predictions are not those in predictions.parquet, train the run again."
        )
    return data


def _from_version_2(data: dict[str, Any]) -> dict[str, Any]:
    """Fill in what no run of version 2 had."""
    return {**_NEW_IN_3, **data, "schema_version": SCHEMA_VERSION}


def _check_entries(data: dict[str, Any], source: str) -> None:
    missing = [name for name in _needed(data) if data.get(name) is None]
    for name, (allowed, fits) in _ENTRIES.items():
        part, _, key = name.rpartition(".")
        holder = data.get(part) if part else data
        if not isinstance(holder, dict):  # null or missing, or it has been named already
            continue
        if key not in holder:
            missing += [] if name in (*missing, *_MAY_LACK) else [name]
        elif not fits(holder[key]):
            raise ValueError(
                f"{source} has {holder[key]!r} for {name}, which must be {allowed}. Train or download it again."
            )
    if missing:
        raise ValueError(
            f"{source} lacks {missing}, which a run of approach {data['approach']!r} has. Train or download it again."
        )


def _needed(data: dict[str, Any]) -> tuple[str, ...]:
    """The entries that must not be null in a run of this approach."""
    own = {"embedding": ("pooling", "head_init"), "frozen": ("pooling",), "combination": ("members",)}
    own["cascade"] = ("members", "cascade_threshold")
    prompted = data["approach"] == "instruction" or data.get("head_init") == "verbalizer"
    prompted = prompted or any(data.get(name) for name in _PROMPT)
    return (*own.get(data["approach"], ()), *(_PROMPT if prompted else ()))
