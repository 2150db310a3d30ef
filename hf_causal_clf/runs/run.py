"""`Run`: what a run is, and all that has to be known to load it. In its folder, that is `classification.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cli.sources import check_source
from ..evaluation.calibration import Calibration
from ..evaluation.conformal import Conformal
from ..evaluation.selective import Abstention
from ..task.labels import LabelSpace
from ..task.prompts import PromptEncoder, PromptTemplate
from ..task.tokens import check_truncation
from ..task.verbalizer import Verbalizer
from .disk import write_json
from .files import CLASSIFICATION_FILE, find_file, is_hub_id, read_json
from .schema import SCHEMA_VERSION, current

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class BaseModel:
    """The base model of a run.

    Attributes:
        name_or_path: Hub id or folder; `None` for a whole model that was published, which needs no base.
        revision: Its commit on the Hub; `None` for a folder.
        dtype: Data type of its weights, such as `"bfloat16"`; `"auto"` is that of the checkpoint.
        quantization: Arguments of its `BitsAndBytesConfig`; `None` without quantisation.
    """

    name_or_path: str | None
    revision: str | None = None
    dtype: str | None = None
    quantization: Mapping[str, Any] | None = None

    @property
    def hub_id(self) -> str | None:
        """Its id on the Hub; `None` for a local checkpoint, whose path is nobody's business."""
        return self.name_or_path if self.name_or_path and self.revision and is_hub_id(self.name_or_path) else None


@dataclass(frozen=True)
class Truncation:
    """How long documents are shortened.

    Attributes:
        max_length: Most tokens of a document, or of prompt and answer together; `None` for no limit.
        side: Where a document loses text: `"tail"`, `"head"`, `"both"` or `"head_tail"`.
        long_documents: Whether it does (`"truncate"`), or is read in overlapping `"chunks"`, whose logits are averaged.

    Raises:
        ValueError: If one of them is not allowed.
    """

    max_length: int | None
    side: str = "tail"
    long_documents: str = "truncate"

    def __post_init__(self) -> None:
        check_truncation(self.max_length, self.side, self.long_documents)


@dataclass(frozen=True)
class Prompt:
    """What is written around a document, and what is answered.

    Attributes:
        template: The prompt template.
        verbalizer: The answers.
    """

    template: PromptTemplate
    verbalizer: Verbalizer

    def bind(self, tokenizer: PreTrainedTokenizerBase) -> PromptEncoder:
        """Fix the tokenizer; errors as for `PromptTemplate.bind`."""
        return self.template.bind(tokenizer, self.verbalizer)


@dataclass(frozen=True)
class Run:
    """A run, described. `dataclasses.replace` makes a changed one.

    Attributes:
        approach: `"embedding"`, `"instruction"`, or another kind of run: one of `schema.KINDS`.
        label_space: Labels, in the order of the probabilities' columns.
        truncation: How long documents are shortened.
        calibration: What was fitted on the validation documents.
        base_model: The base model.
        pooling: `"last"` or `"mean"` (embedding-based, frozen language model), else `None`.
        head_init: `"random"`, `"verbalizer"` or `"probe"`: what the head started from (embedding-based), else `None`.
        prompt: Template and answers; `None` for a head that reads documents as they are.
        document_suffix: Text after each document that a head reads without a prompt; `None` for none.
        members: Weight of each run that a combination is made of, by the name of its folder below `members/`; `None`
            for a run of its own. A cascade has the members `first` and `second`, each with the weight 1.
        cascade_threshold: Margin from which on a cascade's first member answers; `None` for any other run.
        training: What only the training knew (`training_facts`), for the card; empty for a run that does not have it.
        version: Version of this package that trained it.
        abstention: Where it does not answer; `None` where no target error was asked for.
        conformal: Scores of documents that nothing was fitted on, for conformal sets; `None` where there are none.
    """

    approach: str
    label_space: LabelSpace
    truncation: Truncation
    calibration: Calibration
    base_model: BaseModel
    version: str
    pooling: str | None = None
    head_init: str | None = None
    prompt: Prompt | None = None
    document_suffix: str | None = None
    members: Mapping[str, float] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    abstention: Abstention | None = None
    conformal: Conformal | None = None
    cascade_threshold: float | None = None

    @classmethod
    def read(cls, source: str | PathLike[str], **hub_kwargs: Any) -> Run:
        """Read `classification.json` of a run folder or Hub repository, of this or an earlier schema version.

        Args:
            source: Folder or Hub repository.
            hub_kwargs: `revision`, `token`, `cache_dir`, `local_files_only`, `force_download`.

        Raises:
            FileNotFoundError: If there is none.
            OSError: If there is no such folder or repository, or the Hub cannot be reached.
            ValueError: If it is damaged, of a later schema version, or an entry is missing or wrong.
        """
        check_source(str(source), CLASSIFICATION_FILE, **hub_kwargs)
        try:
            path = find_file(source, CLASSIFICATION_FILE, **hub_kwargs)
        except OSError as error:
            raise OSError(f"{str(source)!r} cannot be read. {error}") from error
        if path is None:
            raise FileNotFoundError(
                f"{str(source)!r} has no {CLASSIFICATION_FILE}, so its labels are unknown. Give the output_dir of a "
                "finished run of recipes/embed.py or recipes/instruct.py, or a repository pushed from one; for a model "
                "of your own Trainer, call hf_causal_clf.finishing.save_description(folder, model, encoder) first."
            )
        return cls.from_dict(read_json(path), str(path))

    def write(self, folder: Path) -> None:
        """Write `classification.json` into a folder, whole or not at all."""
        write_json(folder / CLASSIFICATION_FILE, self.to_dict())

    @classmethod
    def from_dict(cls, data: dict[str, Any], source: str = CLASSIFICATION_FILE) -> Run:
        """Rebuild a run from the content of `classification.json`.

        Args:
            data: The content, of this or an earlier schema version.
            source: Where it is from, for errors.

        Raises:
            ValueError: If it is of a later schema version, or an entry is missing or wrong.
        """
        data = current(data, source)
        try:
            label_space = LabelSpace.from_dict(data["label_space"])
            if data["problem_type"] != label_space.problem_type:
                raise ValueError(f"problem_type is {data['problem_type']!r}, but its labels are of another kind.")
            truncation, prompt = Truncation(**data["truncation"]), None
            if data["prompt_template"] is not None:
                template = PromptTemplate(
                    **data["prompt_template"],
                    max_length=truncation.max_length,
                    truncation=truncation.side,
                    long_documents=truncation.long_documents,
                )
                prompt = Prompt(template, Verbalizer.from_dict(data["verbalizer"], label_space))
            base_model = BaseModel(**data["base_model"])
            abstention, conformal = _selection(data, label_space)
        except (ValueError, TypeError) as error:
            reason = str(error).rstrip(".")
            raise ValueError(f"{source} does not fit together ({reason}). Train or download it again.") from error
        calibration = Calibration.from_dict(data)
        calibration.check(len(label_space))
        return cls(
            approach=data["approach"],
            label_space=label_space,
            truncation=truncation,
            calibration=calibration,
            base_model=base_model,
            version=data["hf_causal_clf_version"],
            pooling=data["pooling"],
            head_init=data["head_init"],
            prompt=prompt,
            document_suffix=data["document_suffix"],
            members=data["members"],
            training=data["training"],
            abstention=abstention,
            conformal=conformal,
            cascade_threshold=data.get("cascade_threshold"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the content of `classification.json`, the same entries for every run but for the optional ones."""
        base, prompt = self.base_model, self.prompt
        optional = {"abstention": self.abstention, "conformal": self.conformal}
        return {
            "schema_version": SCHEMA_VERSION,
            "hf_causal_clf_version": self.version,
            "approach": self.approach,
            "pooling": self.pooling,
            "head_init": self.head_init,
            "prompt_template": None if prompt is None else prompt.template.to_dict(),
            "verbalizer": None if prompt is None else prompt.verbalizer.to_dict(),
            "document_suffix": self.document_suffix,
            "members": None if self.members is None else dict(self.members),
            "label_space": self.label_space.to_dict(),
            "problem_type": self.label_space.problem_type,
            "truncation": asdict(self.truncation),
            **self.calibration.to_dict(),
            "base_model": {
                "name_or_path": base.name_or_path,
                "revision": base.revision,
                "dtype": base.dtype,
                "quantization": None if base.quantization is None else dict(base.quantization),
            },
            "training": dict(self.training),
            **({} if self.cascade_threshold is None else {"cascade_threshold": self.cascade_threshold}),
            **{name: value.to_dict() for name, value in optional.items() if value is not None},
        }


def _selection(data: dict[str, Any], label_space: LabelSpace) -> tuple[Abstention | None, Conformal | None]:
    """The optional entries, checked."""
    abstention = None if data.get("abstention") is None else Abstention.from_dict(data["abstention"])
    conformal = None if data.get("conformal") is None else Conformal.from_dict(data["conformal"])
    if abstention is not None:
        abstention.check(len(label_space), multi_label=label_space.multi_label)
    if conformal is not None:
        conformal.check(len(label_space))
    return abstention, conformal
