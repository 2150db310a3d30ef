import torch

from hf_causal_clf import ClassificationCollator, LabelSpace

LABELS = LabelSpace(["sport", "business"])


def test_classification_collator():
    rows = [{"input_ids": [5, 6], "labels": 1}, {"input_ids": [7], "labels": 0}]
    batch = ClassificationCollator(LABELS, pad_token_id=9)(rows)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["labels"].tolist() == [1, 0]
    multi = LabelSpace(["a", "b"], multi_label=True)
    batch = ClassificationCollator(multi)([{"input_ids": [5], "labels": [0, 1]}])
    assert batch["labels"].dtype == torch.float32
