import pytest
import tiny
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer, VerbalizerCollator
from hf_causal_clf.backbone.batching import length_batches, pad
from hf_causal_clf.embedding.collator import ClassificationCollator
from hf_causal_clf.task.documents import DocumentEncoder

LABELS = LabelSpace(["sport", "business"])
ROWS = [{"text": "the football match", "label": "sport"}, {"text": "shares in the bank fell a lot", "label": 1}]


def test_labels_are_on_the_answer_only(tokenizer):
    collator = VerbalizerCollator(tokenizer, PromptTemplate(), Verbalizer(LABELS))
    batch = collator(ROWS)
    assert {name: tensor.shape for name, tensor in batch.items()}.keys() == {"input_ids", "attention_mask", "labels"}
    for row, answer, example in zip(range(2), (" sport", " business"), ROWS, strict=True):
        labels = batch["labels"][row]
        trained = labels[labels != -100]
        assert tokenizer.decode(trained) == f"{answer}<|im_end|>"
        assert torch.equal(batch["input_ids"][row][labels != -100], trained)
        real = batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist()
        assert real == collator.encoder.prompt_ids(example["text"]) + trained.tolist()


def test_training_and_scoring_see_the_same_tokens(tokenizer):
    """What is trained after a prompt is what label scoring scores after it."""
    from hf_causal_clf import LabelScorer

    template, verbalizer = PromptTemplate(use_chat_template=True, max_length=80), Verbalizer(LABELS)
    collator = VerbalizerCollator(tokenizer, template, verbalizer)
    model = tiny.make_causal_lm("llama", len(tokenizer))
    scorer = LabelScorer(model, tokenizer, template=template, verbalizer=verbalizer)
    for row in ROWS:
        input_ids, labels = collator.encode(row["text"], row["label"])
        label = LABELS.encode(row["label"])
        assert input_ids == scorer.prompt_ids([row["text"]])[0] + scorer.answer_ids[label]
        batch = {"input_ids": torch.tensor([input_ids]), "labels": torch.tensor([labels])}
        loss = model(**batch).loss * len(scorer.answer_ids[label])
        assert loss.item() == pytest.approx(-scorer.log_probs([row["text"]])[0, label], abs=1e-4)


def test_multi_label_rows(tokenizer):
    labels = LabelSpace(["sport", "business"], multi_label=True)
    collator = VerbalizerCollator(tokenizer, PromptTemplate(), Verbalizer(labels))
    batch = collator([{"text": "the match", "label": ["business", "sport"]}, {"text": "cat", "label": []}])
    answers = [tokenizer.decode(row[row != -100]) for row in batch["labels"]]
    assert answers == [" sport, business<|im_end|>", " none<|im_end|>"]


@pytest.mark.parametrize("labels", [LABELS, LabelSpace(["sport", "business"], multi_label=True)])
def test_works_in_an_unmodified_sft_trainer(checkpoint, tmp_path, labels):
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    rows = [{"text": row["text"], "label": LABELS.decode(LABELS.encode(row["label"]))} for row in ROWS] * 8
    if labels.multi_label:
        rows = [{**row, "label": [row["label"]]} for row in rows]
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(checkpoint),
        args=SFTConfig(
            str(tmp_path),
            bf16=False,
            learning_rate=1e-2,
            num_train_epochs=8,
            per_device_train_batch_size=4,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
            remove_unused_columns=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        data_collator=VerbalizerCollator(tokenizer, PromptTemplate(), Verbalizer(labels)),
        peft_config=LoraConfig(r=8, task_type="CAUSAL_LM"),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.5 * losses[0]


def test_document_encoder_puts_the_tokenizers_own_tokens_around(tokenizer):
    from tokenizers.processors import TemplateProcessing

    framed = tiny.make_tokenizer()
    framed.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A <|im_end|>", special_tokens=[("<|im_start|>", 1), ("<|im_end|>", 2)]
    )
    text = "the cat sat on a mat and saw the football match"
    assert DocumentEncoder(framed, None).encode(text) == framed(text)["input_ids"]
    assert DocumentEncoder(tokenizer, None).encode(text) == tokenizer(text)["input_ids"]
    short = DocumentEncoder(framed, 6, "head").encode(text)
    assert short == [1, *framed(text)["input_ids"][-5:-1], 2]
    assert 2 not in DocumentEncoder(framed, None).encode("a <|im_end|> b")[1:-1]
    with pytest.raises(ValueError, match="max_length=2 leaves no room for the document"):
        DocumentEncoder(framed, 2)


def test_classification_collator():
    rows = [{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}]
    batch = ClassificationCollator(LABELS, pad_token_id=9)(rows)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    multi = LabelSpace(["a", "b"], multi_label=True)
    batch = ClassificationCollator(multi)([{"input_ids": [5], "labels": [0, 1]}])
    assert batch["labels"].dtype == torch.float32


def test_pad_and_length_batches():
    assert pad([[1], [2, 3]], 0, side="left")["input_ids"].tolist() == [[0, 1], [2, 3]]
    lengths = [3, 9, 1, 7, 5]
    batches = length_batches(lengths, 2)
    assert batches == [[1, 3], [4, 0], [2]]
    assert length_batches([], 4) == []
