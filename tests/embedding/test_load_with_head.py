"""The model with a head is loaded in one place, from three kinds of sources."""

import pytest
import torch
from test_classifier import LABELS, save_folder
from transformers import AutoModelForSequenceClassification, BitsAndBytesConfig

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace
from hf_causal_clf.backbone import loading
from hf_causal_clf.backbone.attention import PLAIN_ATTENTION
from hf_causal_clf.backbone.weights import BaseWeights
from hf_causal_clf.embedding.loading import load_with_head

IDS = torch.tensor([[5, 6, 7, 8]])
OURS = CausalLMForLastTokenClassification


@pytest.fixture(params=["causal LM", "full model", "stock model", "adapter"])
def source(request, checkpoint, tmp_path):
    """A folder, and whether the labels of a new head are wanted."""
    if request.param == "causal LM":
        return checkpoint, True
    if request.param == "full model":
        OURS.from_pretrained(checkpoint, label_space=LABELS, pooling="mean").save_pretrained(tmp_path)
    elif request.param == "stock model":
        AutoModelForSequenceClassification.from_pretrained(checkpoint, num_labels=3).save_pretrained(tmp_path)
    else:
        save_folder(tmp_path, checkpoint, "embedding")
    return tmp_path, False


@pytest.mark.parametrize("weights", [BaseWeights("bfloat16"), BaseWeights("float32", attn_implementation="eager")])
def test_as_the_class_loads_it(source, weights):
    folder, new = source
    labels = {"label_space": LABELS} if new else {}
    torch.manual_seed(1)
    expected = OURS.from_pretrained(folder, **labels, **weights.kwargs())
    torch.manual_seed(1)
    found = load_with_head(folder, weights, **labels)
    assert type(found) is OURS
    assert not found.training
    assert found.config.pooling == expected.config.pooling
    assert found.config.label_space == expected.config.label_space
    assert found.backbone.config._attn_implementation == (weights.attn_implementation or PLAIN_ATTENTION)
    torch.testing.assert_close(found(IDS).logits, expected(IDS).logits, atol=0.05, rtol=0.02)
    if new:
        with pytest.raises(ValueError, match="has no classification head yet"):
            load_with_head(folder, weights)


def test_settings_of_a_new_head(checkpoint, monkeypatch):
    monkeypatch.setattr(loading, "process_device", lambda: torch.device("meta"))
    nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = load_with_head(
        checkpoint, BaseWeights("float32", nf4, device_map="cpu"), label_space=LABELS, pooling="mean", pos_weight=[2.0]
    )
    assert (model.config.pooling, model.config.pos_weight) == ("mean", [2.0])
    assert model.device.type == "cpu"
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    assert load_with_head(checkpoint, label_space=LABELS).device.type == "meta"
    assert load_with_head(checkpoint, label_space=LABELS, place=False).device.type == "cpu"


def test_labels_of_an_adapter_are_not_contradicted(checkpoint, tmp_path):
    save_folder(tmp_path, checkpoint, "embedding")
    with pytest.raises(ValueError, match="which differ from the `label_space` that was given"):
        load_with_head(tmp_path, label_space=LabelSpace(["x", "y", "z"]))
