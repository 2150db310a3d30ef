"""The embedding-based approach: a linear head on a decoder-only backbone's pooled last hidden state."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from ..backbone.attention import keep_exact_gradients
from ..backbone.batching import run_in_groups, run_in_parts
from ..backbone.loading import LM_HEADS, find_adapter, load_adapter, read_base
from ..cli.logs import expected_weights
from ..runs.run import Run
from ..task.labels import LabelSpace
from .answer_loss import AnswerLoss, last_tokens
from .configuration import CausalLMForLastTokenClassificationConfig

_HUB_KWARGS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
_HEAD_KWARGS = ("pooling", "class_weights", "label_smoothing", "pos_weight")


class CausalLMForLastTokenClassification(PreTrainedModel):
    """Any decoder-only backbone that `AutoModel` builds, with a bias-free linear head on its pooled last hidden state.

    With `pooling="last"` the parameter names and the arithmetic are those of the backbone's stock
    `…ForSequenceClassification`, but the last token is found from the attention mask instead of the pad token id, the
    head runs on the pooled state only and in float32, and the loss is normalised by `num_items_in_batch`.

    Args:
        config: Configuration with the backbone's configuration inside.
    """

    config_class = CausalLMForLastTokenClassificationConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _keep_in_fp32_modules = ["score"]  # also keeps bitsandbytes from quantising the head
    _keep_in_fp32_modules_strict = ["score"]
    _keys_to_ignore_on_load_unexpected = [r"lm_head", r"embed_out"]

    def __init__(self, config: CausalLMForLastTokenClassificationConfig) -> None:
        super().__init__(config)
        backbone = AutoModel.from_config(config.text_config)
        self.base_model_prefix = backbone.base_model_prefix
        setattr(self, self.base_model_prefix, backbone)
        self._no_split_modules = backbone._no_split_modules
        self._takes_position_ids = "position_ids" in inspect.signature(backbone.forward).parameters
        self.score = nn.Linear(hidden_size(config.text_config), config.num_labels, bias=False, dtype=torch.float32)
        self.length_groups = False  # in training, run rows of similar length together; set by whoever trains
        self.answer_loss: AnswerLoss | None = None  # in training, of answers behind the prompts; set by whoever trains
        self.post_init()

    @property
    def backbone(self) -> PreTrainedModel:
        """The decoder-only model below the head."""
        return getattr(self, self.base_model_prefix)

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's token embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's token embeddings."""
        self.backbone.set_input_embeddings(value)

    def _init_weights(self, module: nn.Module) -> None:
        if module is self.score:
            nn.init.normal_(module.weight, std=getattr(self.config.text_config, "initializer_range", None) or 0.02)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        chunks: torch.Tensor | None = None,
        answer_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Classify a batch of token sequences.

        Args:
            input_ids: Token ids, int64 `(batch, length)`, padded at either side.
            attention_mask: 1 for tokens and 0 for padding, `(batch, length)`; `None` if nothing is padded.
            position_ids: Position of each token, `(batch, length)`; counted over the mask by default.
            inputs_embeds: Token embeddings `(batch, length, hidden)` in place of `input_ids`.
            labels: Class ids, int64 `(batch,)`; or 0/1 of any dtype `(batch, labels)` for multi-label. -100 is ignored.
            num_items_in_batch: Number of labels that are not -100 in the whole accumulated batch over all processes,
                which the summed loss is divided by. `Trainer` counts and passes it; by default, this batch's number.
            chunks: Number of rows of each document, int64 `(documents,)`, where documents have several: a document's
                logits are the mean of its rows' (`labels` has an entry for a document). As many rows as there are
                documents are run at a time, and run again in the backward pass, so that memory does not grow with
                their length. The backbone's other outputs are left out then.
            answer_tokens: How many of each row's last tokens are the answer to the prompt before them, int64
                `(batch,)`, 1 or more, where `answer_loss` is set: the head reads the prompt's last token, and the loss
                of the answer is added to its own. The backbone's other outputs are left out then.
            kwargs: Passed on to the backbone (`output_hidden_states`, `past_key_values`, …).

        Returns:
            `loss`, and float32 `logits` of shape `(batch, labels)`, or `(documents, labels)`.
        """
        asked = {name for name, value in kwargs.items() if value} - {"return_dict"}
        grouped = self.length_groups and self.training
        outputs = answer = None
        if answer_tokens is not None and self.answer_loss is not None and input_ids is not None:
            pooled, answer = self._with_answer(input_ids, attention_mask, answer_tokens, grouped)
        elif (
            chunks is not None and input_ids is not None and attention_mask is not None and len(chunks) < len(input_ids)
        ):
            run = partial(run_in_groups, self._pooled) if grouped else self._pooled
            pooled = run_in_parts(run, input_ids, attention_mask, rows=len(chunks))
        elif grouped and attention_mask is not None and input_ids is not None and not asked:
            pooled = run_in_groups(self._pooled, input_ids, attention_mask)
        else:
            outputs, pooled = self._run(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        logits = self.logits_of_states(pooled)
        if chunks is not None:
            logits = torch.stack([rows.mean(dim=0) for rows in logits.split(chunks.tolist())])
        loss = None if labels is None else self.loss(logits, labels, num_items_in_batch, answer)
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=getattr(outputs, "past_key_values", None),
            hidden_states=getattr(outputs, "hidden_states", None),
            attentions=getattr(outputs, "attentions", None),
        )

    def logits_of_states(self, states: torch.Tensor) -> torch.Tensor:
        """Return what the head makes of pooled hidden states `(batch, hidden)`: float32 `(batch, labels)`."""
        with torch.autocast(states.device.type, enabled=False):
            return self.score(states.to(next(self.score.parameters()).dtype)).float()

    def _pooled(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self._run(input_ids, attention_mask)[1]

    def _with_answer(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        answer_tokens: torch.Tensor,
        grouped: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the state of each prompt's last token, `(batch, hidden)`, and the loss of each answer, `(batch,)`."""
        assert self.answer_loss is not None
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        width = int(answer_tokens.max()) + 1

        def run(input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            outputs, _ = self._run(input_ids, attention_mask)
            return last_tokens(outputs.last_hidden_state, attention_mask, width)

        states = run_in_groups(run, input_ids, mask) if grouped else run(input_ids, mask)
        rows = torch.arange(len(states), device=states.device)
        answer_tokens = answer_tokens.to(states.device)
        losses = self.answer_loss(states, last_tokens(input_ids, mask, width).to(states.device), answer_tokens)
        return states[rows, width - 1 - answer_tokens], losses

    def _run(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[Any, torch.Tensor]:
        """Run the backbone; return its outputs and the pooled last hidden state, `(batch, hidden)`."""
        given = input_ids if input_ids is not None else inputs_embeds
        length = 0 if given is None else given.shape[1]  # the mask is longer after cached tokens
        if self._takes_position_ids:
            if position_ids is None and attention_mask is not None:
                position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -length:]
            kwargs["position_ids"] = position_ids
        kwargs.setdefault("use_cache", False)
        kwargs["return_dict"] = True
        outputs = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs
        )
        mask = None if attention_mask is None else attention_mask[:, -length:]
        return outputs, pool(outputs.last_hidden_state, mask, self.config.pooling)

    def loss(
        self,
        logits: torch.Tensor,
        labels: torch.Tensor,
        num_items_in_batch: torch.Tensor | int | None = None,
        answer: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Cross-entropy, or binary cross-entropy for multi-label, summed and divided by the number of items.

        Class weights scale each document's term but not the divisor, so that the sum over accumulated batches and
        processes is the loss of the whole batch. The loss of each document's `answer`, `(batch,)`, is added to the
        mean over documents.
        """
        labels = labels.to(logits.device)
        if self.config.problem_type == "multi_label_classification":
            pos_weight = None if self.config.pos_weight is None else logits.new_tensor(self.config.pos_weight)
            known = labels != -100
            terms = F.binary_cross_entropy_with_logits(
                logits, labels.to(logits.dtype), pos_weight=pos_weight, reduction="none"
            )
            total, items = terms[known].sum(), known.sum()
            answer = None if answer is None else answer * labels.shape[1]  # a document has as many items
        else:
            weight = None if self.config.class_weights is None else logits.new_tensor(self.config.class_weights)
            labels = labels.long().view(-1)
            total, items = (
                F.cross_entropy(
                    logits, labels, weight=weight, label_smoothing=self.config.label_smoothing, reduction="sum"
                ),
                (labels != -100).sum(),
            )
            if answer is not None:
                answer = answer * (labels != -100) * (1.0 if weight is None else weight[labels.clamp(min=0)])
        total = total if answer is None else total + answer.sum()
        if num_items_in_batch is not None:
            items = torch.as_tensor(num_items_in_batch, device=logits.device)
        return total / items.clamp(min=1)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *model_args: Any,
        label_space: LabelSpace | None = None,
        config: PreTrainedConfig | None = None,
        **kwargs: Any,
    ) -> CausalLMForLastTokenClassification:
        """Load a causal-LM checkpoint (new head), a saved full model (also a stock one), or an adapter.

        Args:
            pretrained_model_name_or_path: Hub id or folder of any of the three.
            model_args: Passed on to `PreTrainedModel.from_pretrained`.
            label_space: Labels of the new head. A saved model or an adapter brings its own.
            config: Configuration of this class, or of the backbone.
            kwargs: As for every `from_pretrained` (`dtype`, `quantization_config`, `device_map`, `revision`, `token`,
                …); `pooling`, `class_weights`, `label_smoothing` and `pos_weight` set the configuration.

        Returns:
            The model in evaluation mode; an adapter is loaded into it, not merged.

        Raises:
            ValueError: If the labels of a new head are not given, or contradict those of an adapter.
        """
        source = str(pretrained_model_name_or_path)
        hub_kwargs = {name: kwargs[name] for name in _HUB_KWARGS if name in kwargs}
        head_kwargs = {name: kwargs.pop(name) for name in _HEAD_KWARGS if name in kwargs}
        adapter = find_adapter(source, **hub_kwargs) if config is None else None
        if adapter is not None:
            return cls._from_adapter(source, adapter, label_space, hub_kwargs, *model_args, **head_kwargs, **kwargs)
        if config is None:
            config_kwargs = {**hub_kwargs, "trust_remote_code": kwargs.get("trust_remote_code", False)}
            config = AutoConfig.from_pretrained(source, **config_kwargs)
        has_head = isinstance(config, CausalLMForLastTokenClassificationConfig) or _is_stock_classifier(config)
        load = cls._from_full_model if has_head else cls._from_causal_lm
        return load(source, config, label_space, head_kwargs, *model_args, **kwargs)

    @classmethod
    def _from_adapter(
        cls,
        source: str,
        adapter: Path,
        label_space: LabelSpace | None,
        hub_kwargs: dict[str, Any],
        *model_args: Any,
        **kwargs: Any,
    ) -> CausalLMForLastTokenClassification:
        """Load the base model of an adapter, and the adapter into it, which brings the head's weights."""
        run = Run.read(source, **hub_kwargs)
        label_space = _agree(label_space, run.label_space, source)
        base, revision = read_base(adapter)
        kwargs = {"pooling": run.pooling, **kwargs, "revision": revision}
        kwargs.pop("subfolder", None)
        model = cls.from_pretrained(base, *model_args, label_space=label_space, **kwargs)
        load_adapter(model, source, **hub_kwargs)
        return model

    @classmethod
    def _from_full_model(
        cls,
        source: str,
        config: PreTrainedConfig,
        label_space: LabelSpace | None,
        head_kwargs: dict[str, Any],
        *model_args: Any,
        **kwargs: Any,
    ) -> CausalLMForLastTokenClassification:
        """Load a model with its head, of this class or of a stock one."""
        if not isinstance(config, CausalLMForLastTokenClassificationConfig):
            config = config_for_head(config, label_space or _stock_labels(config), **head_kwargs)
        return cls._from_checkpoint(source, config, *model_args, **kwargs)

    @classmethod
    def _from_causal_lm(
        cls,
        source: str,
        config: PreTrainedConfig,
        label_space: LabelSpace | None,
        head_kwargs: dict[str, Any],
        *model_args: Any,
        **kwargs: Any,
    ) -> CausalLMForLastTokenClassification:
        """Load a causal language model, and put a new head in the place of its LM head."""
        if label_space is None:
            raise ValueError(
                f"{source!r} has no classification head yet. Pass its labels: "
                'from_pretrained(…, label_space=LabelSpace(["sport", "business"])).'
            )
        config = config_for_head(config, label_space, **head_kwargs)
        return cls._from_checkpoint(source, config, *model_args, new_weights=("score.",), **kwargs)

    @classmethod
    def _from_checkpoint(
        cls,
        source: str,
        config: CausalLMForLastTokenClassificationConfig,
        *model_args: Any,
        new_weights: Sequence[str] = (),
        **kwargs: Any,
    ) -> CausalLMForLastTokenClassification:
        with expected_weights(missing=new_weights, unused=LM_HEADS):
            model = super().from_pretrained(source, *model_args, config=config, **kwargs)
        keep_exact_gradients(model)
        return model


def config_for_head(
    text_config: PreTrainedConfig, label_space: LabelSpace, **head_kwargs: Any
) -> CausalLMForLastTokenClassificationConfig:
    """Wrap a backbone's configuration; a quantised checkpoint's `quantization_config` moves to the outside."""
    text_config.name_or_path = ""  # a local path has no business in a saved configuration
    quantization = text_config.__dict__.pop("quantization_config", None)
    if quantization is not None:
        head_kwargs["quantization_config"] = quantization
    return CausalLMForLastTokenClassificationConfig.from_backbone(text_config, label_space, **head_kwargs)


def pool(hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """Pool hidden states `(batch, length, hidden)` to `(batch, hidden)` over the attention mask."""
    if attention_mask is None:
        return hidden_states[:, -1] if pooling == "last" else hidden_states.float().mean(dim=1)
    mask = attention_mask.to(hidden_states.device)
    if pooling == "last":
        positions = torch.arange(mask.shape[-1], device=mask.device)
        last = (mask.ne(0) * positions).argmax(dim=-1)
        rows = torch.arange(last.shape[0], device=last.device)  # len() would fix the batch size in an exported graph
        return hidden_states[rows, last]
    weights = mask.ne(0).unsqueeze(-1).float()
    return (hidden_states.float() * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def hidden_size(config: PreTrainedConfig) -> int:
    """Width of a backbone's last hidden state."""
    text_config = config.get_text_config()
    # OPT-350m projects its last hidden state to the width of the embeddings
    return getattr(text_config, "word_embed_proj_dim", None) or text_config.hidden_size


def _is_stock_classifier(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint is of a stock `…ForSequenceClassification`, whose weights have our names."""
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])


def _stock_labels(config: PreTrainedConfig) -> LabelSpace:
    names = [config.id2label[index] for index in range(config.num_labels)]
    return LabelSpace(names, multi_label=config.problem_type == "multi_label_classification")


def _agree(given: LabelSpace | None, saved: LabelSpace, source: str) -> LabelSpace:
    if given is not None and given != saved:
        raise ValueError(
            f"The adapter {source!r} was trained with the labels {list(saved.names)} (multi_label="
            f"{saved.multi_label}), which differ from the `label_space` that was given. Leave `label_space` out."
        )
    return saved
