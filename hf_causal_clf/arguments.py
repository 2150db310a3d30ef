"""Command-line and YAML arguments that are not TRL's or transformers' own, and parsing them all."""

from __future__ import annotations

import json
import sys
from argparse import SUPPRESS, Action, ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from transformers.hf_argparser import string_to_bool
from transformers.utils.logging import log_levels, set_verbosity
from trl import TrlParser

from .config_files import KINDS, read_arguments, with_hints
from .configuration import POOLINGS
from .labels import LabelSpace
from .mistakes import Mistakes, raised_here, report
from .prompts import TRUNCATION_SIDES, PromptTemplate, check_truncation
from .sources import missing_folder
from .verbalizer import Verbalizer
from .wipo import LEVELS, check_wipo

SPLITS = ("train", "validation", "test")
HEAD_INITS = ("random", "verbalizer")


@dataclass
class DataArguments:
    """Which documents to use. Either `dataset_name` or the three files."""

    dataset_name: str | None = field(default=None, metadata={"help": "Data set on the Hub, or its folder."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_file: str | None = field(
        default=None,
        metadata={"help": "Training documents: CSV, JSON, JSONL or Parquet, or a folder of WIPO-Alpha XML records."},
    )
    validation_file: str | None = field(default=None, metadata={"help": "Validation documents."})
    test_file: str | None = field(default=None, metadata={"help": "Test documents."})
    text_column: str = field(default="text", metadata={"help": "Column of the document text."})
    label_column: str = field(
        default="label", metadata={"help": "Column of the label(s): names, ids or lists of them."}
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column that identifies a document. Default: its row number in its split."}
    )
    multi_label: bool = field(default=False, metadata={"help": "Whether a document has any number of labels."})
    label_delimiter: str | None = field(
        default=None, metadata={"help": "Text that separates labels in the label column, where they are one string."}
    )
    label_list: list[str] | None = field(
        default=None, metadata={"help": "All labels, in the order of their ids. Default: those of the training split."}
    )
    validation_fraction: float | None = field(
        default=None, metadata={"help": "Share of the training split to set apart for validation, stratified."}
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Use so many training documents only, drawn stratified."}
    )
    max_validation_samples: int | None = field(
        default=None, metadata={"help": "Use so many validation documents only.", "aliases": ["--max_eval_samples"]}
    )
    max_test_samples: int | None = field(
        default=None, metadata={"help": "Use so many test documents only.", "aliases": ["--max_predict_samples"]}
    )
    ipc_level: str = field(
        default="section",
        metadata={"help": "WIPO-Alpha: level of the IPC codes that are the labels.", "choices": list(LEVELS)},
    )
    ipc_fields: list[str] = field(
        default_factory=lambda: ["ti", "ab"],
        metadata={"help": "WIPO-Alpha: texts to join, of ti (title), ab (abstract), cl (claims), txt (description)."},
    )
    split_seed: int = field(default=42, metadata={"help": "Seed of all of these draws, apart from the training seed."})

    def __post_init__(self) -> None:
        report(self._mistakes())
        check_wipo(self.ipc_level, self.ipc_fields)

    def _mistakes(self) -> Iterator[str]:
        files = [name for name in (f"{split}_file" for split in SPLITS) if getattr(self, name)]
        if bool(self.dataset_name) == bool(files):
            yield (
                "Give either dataset_name or train_file, validation_file and test_file, "
                + (f"not both (got dataset_name={self.dataset_name!r} and {files})." if files else "but none is given.")
            )
        elif self.dataset_name and (missing := missing_folder(self.dataset_name, "dataset_name")) is not None:
            yield missing
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            yield f"validation_fraction must be between 0 and 1, got {self.validation_fraction}."
        if self.label_delimiter is not None and not self.multi_label:
            yield "label_delimiter is for multi-label tasks: set multi_label to true, or leave it out."
        if not 0 <= self.split_seed < 2**32:
            yield f"split_seed must be from 0 to 2**32 - 1, got {self.split_seed}."
        for split in SPLITS:
            limit = getattr(self, f"max_{split}_samples")
            if limit is not None and limit < 1:
                yield f"max_{split}_samples must be at least 1, got {limit}."


@dataclass
class RunArguments:
    """What both approaches share beside data, model and training arguments."""

    truncation: str = field(
        default="tail",
        metadata={
            "help": "Where a document longer than max_length loses text: at its 'tail', its 'head', or at 'both' ends "
            "(which keeps the middle).",
            "choices": list(TRUNCATION_SIDES),
        },
    )
    early_stopping_patience: int = field(
        default=3,
        metadata={"help": "Stop after so many evaluations without a better validation metric; 0 never stops early."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Whether to train where output_dir has a finished run, and to replace its files when the new one "
            "is whole."
        },
    )
    hub_base_model: str | None = field(
        default=None,
        metadata={"help": "With push_to_hub: Hub id of the base model, where model_name_or_path is a folder."},
    )

    def __post_init__(self) -> None:
        check_truncation(None, self.truncation)
        if self.early_stopping_patience < 0:
            raise ValueError(f"early_stopping_patience must be 0 (off) or more, got {self.early_stopping_patience}.")


@dataclass
class HeadArguments:
    """The classification head of the embedding-based approach."""

    pooling: str = field(
        default="last",
        metadata={"help": "What the head reads: the 'last' token, or the 'mean' of all.", "choices": list(POOLINGS)},
    )
    class_weight: str | None = field(
        default=None,
        metadata={
            "help": "'balanced' weights classes (multi-label: positives) by their inverse frequency in training.",
            "choices": ["balanced"],
        },
    )
    head_init: str = field(
        default="random",
        metadata={
            "help": "What the head starts from: 'random' weights, or the LM head's rows of the answers ('verbalizer'), "
            "with each document in the prompt up to the answer.",
            "choices": list(HEAD_INITS),
        },
    )

    def __post_init__(self) -> None:
        report(self._mistakes())

    def _mistakes(self) -> Iterator[str]:
        if self.pooling not in POOLINGS:
            yield f"pooling must be one of {list(POOLINGS)}, got {self.pooling!r}."
        if self.class_weight not in (None, "balanced"):
            yield f"class_weight must be 'balanced' or left out, got {self.class_weight!r}."
        if self.head_init not in HEAD_INITS:
            yield f"head_init must be one of {list(HEAD_INITS)}, got {self.head_init!r}."
        if self.head_init == "verbalizer" and self.pooling != "last":
            yield (
                f"head_init verbalizer reads the answer slot, the last token: set pooling to last, not {self.pooling}, "
                "or head_init to random."
            )

    def check_prompt(self, prompt: PromptArguments) -> None:
        """Raise a `ValueError` for settings of a prompt that a random head has no use for."""
        given = [item.name for item in fields(prompt) if getattr(prompt, item.name) != item.default]
        if given and self.head_init != "verbalizer":
            raise ValueError(
                f"{given} belong to the prompt, which head_init {self.head_init} does not use. Set head_init to "
                "verbalizer, or leave them out."
            )


@dataclass
class PromptArguments:
    """The prompt and the answers: of the instruction-based approach, and of a head that starts from the answers."""

    instruction: str | None = field(
        default=None,
        metadata={
            "help": "Instruction before every document; {labels}, {delimiter} and {empty_answer} are filled in. "
            "Default: a short one with the label list."
        },
    )
    use_chat_template: bool = field(
        default=False, metadata={"help": "Whether to use the tokenizer's chat template instead of plain text."}
    )
    answers: str | None = field(
        default=None,
        metadata={"help": "Answer text of each label that is not answered with its name: a mapping (YAML), or JSON."},
    )
    answer_delimiter: str = field(default=", ", metadata={"help": "Text between the labels of a multi-label answer."})
    empty_answer: str = field(default="none", metadata={"help": "Answer for a document with no label (multi-label)."})

    def __post_init__(self) -> None:
        if not isinstance(self.answer_delimiter, str) or not isinstance(self.empty_answer, str):
            raise ValueError("answer_delimiter and empty_answer must be texts; in YAML, put them in quotes.")
        self._answers: dict[str, str] = {}
        if self.answers is not None:
            try:
                given = json.loads(self.answers) if isinstance(self.answers, str) else self.answers
            except json.JSONDecodeError as error:
                raise ValueError(f"answers is not valid JSON ({error}): {self.answers!r}.") from error
            if not isinstance(given, dict):
                raise ValueError(f"answers must map label names to answer texts, got {given!r}.")
            wrong = {name: text for name, text in given.items() if type(text) not in (str, int, float)}
            if wrong:
                raise ValueError(
                    f"answers must be texts, got {wrong}. In YAML, put words such as yes and no in quotes."
                )
            self._answers = {str(name): str(text) for name, text in given.items()}

    def verbalizer(self, labels: LabelSpace) -> Verbalizer:
        """Build the verbalizer that these arguments describe."""
        return Verbalizer(labels, self._answers, delimiter=self.answer_delimiter, empty_answer=self.empty_answer)

    def template(self, max_length: int | None, truncation: str) -> PromptTemplate:
        """Build the prompt template that these arguments describe."""
        return PromptTemplate(
            instruction=self.instruction,
            use_chat_template=self.use_chat_template,
            max_length=max_length,
            truncation=truncation,
        )


class _Parser(TrlParser):
    """TRL's parser; a value that is not allowed is noted, and the rest is parsed all the same."""

    def __init__(self, types: Sequence[type], mistakes: Mistakes, description: str | None) -> None:
        layout = {"description": description, "formatter_class": RawDescriptionHelpFormatter}
        super().__init__(types, **layout, allow_abbrev=False)
        self.mistakes = mistakes
        self.wrong: set[str] = set()

    def error(self, message: str) -> NoReturn:
        """Raise a `ValueError` in place of printing the usage, which lists all arguments, and an exit."""
        raise ValueError(f"{message[:1].upper()}{message[1:]}. See --help.")

    def _get_values(self, action: Action, arg_strings: list[str]) -> Any:
        try:
            return super()._get_values(action, arg_strings)
        except ArgumentError as error:
            self.wrong.add(action.dest)
            with self.mistakes.noted():
                raise _refused(action, arg_strings, error) from error
            return action.default


def _refused(action: Action, words: list[str], error: ArgumentError) -> ValueError:
    """Say which values an argument takes, as of one in a YAML file."""
    kind = bool if action.type is string_to_bool else action.type
    if action.choices is not None:
        allowed = f"must be one of {list(action.choices)}"
    elif kind in KINDS:
        allowed = f"must be {KINDS[kind]}"
    else:
        return ValueError(f"{error}.")
    return ValueError(f"{action.dest} {allowed}, got {words[0] if len(words) == 1 else words!r}.")


def parse_arguments(
    types: Sequence[type],
    description: str | None = None,
    args: Sequence[str] | None = None,
    *,
    check: Callable[[Sequence[Any], Mistakes], None] | None = None,
) -> tuple[Any, ...]:
    """Parse `--config file.yaml` and the command line, which overrides it, with TRL's parser.

    Args:
        types: Argument dataclasses.
        description: Text at the top of `--help`.
        args: Command line; by default the program's own.
        check: Where something is wrong, notes the mistakes that arguments point to (in the documents, say), so that
            one start tells all of them. It is given what could be built of `types`, `None` for the others.

    Returns:
        One instance for each of `types`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If arguments are unknown or given twice in the file, or values are not allowed; a line for each.
    """
    mistakes = Mistakes()
    parser = _Parser(types, mistakes, description)
    if not any(item.name == "log_level" for kind in types for item in fields(kind)):
        parser.add_argument("--log_level", default=SUPPRESS, choices=list(log_levels), help="What is logged.")
    args = list(sys.argv[1:] if args is None else args)
    args = [part for arg in args for part in (arg.split("=", 1) if arg.startswith("--config=") else [arg])]
    if "--config" in args:
        position = args.index("--config")
        values, parser.wrong = read_arguments("".join(args[position + 1 : position + 2]), types, mistakes)
        parser.set_defaults_with_config(**values)
        del args[position : position + 2]
    given, unknown = parser.parse_known_args(args)
    with mistakes.noted():
        if unknown:
            known = [option for action in parser._actions for option in action.option_strings]
            names = [part for part in unknown if part.startswith("--")] or unknown
            raise ValueError(f"Unknown arguments: {with_hints(names, known)}. See --help for all of them.")
    parsed = [_build(kind, vars(given), parser) for kind in types]
    if mistakes.errors and check is not None:
        check(parsed, mistakes)
    mistakes.report()
    if hasattr(given, "log_level") and not any(hasattr(each, "log_level") for each in parsed):
        set_verbosity(log_levels[given.log_level])
    return tuple(parsed)


def _build(kind: type, given: dict[str, Any], parser: _Parser) -> Any:
    """Build an argument dataclass, unless a value of it is wrong; stock classes raise errors of many types."""
    names = {item.name for item in fields(kind) if item.init}
    if names & parser.wrong:
        return None
    with parser.mistakes.noted():
        try:
            return kind(**{name: given[name] for name in names})
        except (ValueError, TypeError, OSError, ImportError) as error:
            if raised_here(error):
                raise
            raise ValueError(str(error)) from error
    return None
