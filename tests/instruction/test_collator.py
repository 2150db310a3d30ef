import pytest
import tiny
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from hf_causal_clf import LabelSpace, PromptTemplate, Verbalizer, VerbalizerCollator

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
