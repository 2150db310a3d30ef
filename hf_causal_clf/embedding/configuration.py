"""Configuration of `CausalLMForLastTokenClassification`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ..runs.schema import POOLINGS
from ..task.labels import LabelSpace

PROBLEM_TYPES = ("single_label_classification", "multi_label_classification")


class CausalLMForLastTokenClassificationConfig(PreTrainedConfig):
    """A decoder-only backbone with a linear classification head on the pooled last hidden state.

    Args:
        text_config: Configuration of the backbone (any decoder-only model that `AutoModel` builds), or its `dict`.
        pooling: `"last"` reads the last token of the attention mask, `"mean"` averages over the mask.
        problem_type: `"single_label_classification"` (default) or `"multi_label_classification"`; never guessed.
        class_weights: Weight of each class in the single-label loss.
        label_smoothing: Label smoothing of the single-label loss, in `[0, 1)`.
        pos_weight: Weight of each label's positive examples in the multi-label loss.
        kwargs: Common configuration values such as `id2label` and `label2id`.

    Raises:
        ValueError: If a value is not one of those allowed.
    """

    model_type = "causal_lm_for_last_token_classification"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        pooling: str = "last",
        problem_type: str = "single_label_classification",
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        pos_weight: Sequence[float] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            values = dict(text_config)
            text_config = AutoConfig.for_model(values.pop("model_type"), **values)
        elif text_config is None:
            text_config = AutoConfig.for_model("llama")
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {list(POOLINGS)}, got {pooling!r}.")
        problem_type = problem_type or PROBLEM_TYPES[0]
        if problem_type not in PROBLEM_TYPES:
            raise ValueError(f"`problem_type` must be one of {list(PROBLEM_TYPES)}, got {problem_type!r}.")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"`label_smoothing` must be in [0, 1), got {label_smoothing}.")
        self.text_config = text_config
        self.pooling = pooling
        self.class_weights = None if class_weights is None else [float(weight) for weight in class_weights]
        self.label_smoothing = label_smoothing
        self.pos_weight = None if pos_weight is None else [float(weight) for weight in pos_weight]
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(name, getattr(text_config, name, None))
        kwargs["problem_type"] = problem_type
        super().__init__(**kwargs)

    @classmethod
    def from_backbone(
        cls, text_config: PreTrainedConfig, label_space: LabelSpace, **kwargs: Any
    ) -> CausalLMForLastTokenClassificationConfig:
        """Build the configuration for a backbone and a label space."""
        return cls(
            text_config=text_config,
            id2label=label_space.id2label,
            label2id=label_space.label2id,
            problem_type=label_space.problem_type,
            **kwargs,
        )

    @property
    def label_space(self) -> LabelSpace:
        """The label space that `id2label` and `problem_type` describe."""
        names = [self.id2label[index] for index in range(self.num_labels)]
        return LabelSpace(names, multi_label=self.problem_type == "multi_label_classification")
