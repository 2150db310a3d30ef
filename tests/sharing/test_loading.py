"""Runs loaded from the Hub through every door, with nothing local left."""

import json
import shutil
import sys
from types import SimpleNamespace

import hub_client
import numpy as np
import pytest
import torch
from conftest import run_as_main
from hub_server import HubServer
from huggingface_hub import HfApi, ModelCard, constants
from huggingface_hub.utils import get_session
from test_classifier import TEXTS
from test_hub import BASE, STOCK
from test_recipes import ROOT, arguments
from test_recipes import run as run_recipe
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
    pipeline,
)

from hf_causal_clf import (
    CausalLMForLastTokenClassification,
    CausalLMForLastTokenClassificationConfig,
    LabelScorer,
    LabelSpace,
    PromptTemplate,
    TextClassifier,
    Verbalizer,
)

RUNS = {
    "embedding": ("embed", {}),
    "instruction": ("instruct", {}),
    "multi_label": ("embed", {"multi_label": "true"}),
    "full": ("embed", {"use_peft": "false", "learning_rate": "1e-3"}),
}
NAMES = ["sport", "business", "tech"]


@pytest.fixture(scope="module")
def hub(checkpoint, files, multi_label_files, tmp_path_factory):
    """A Hub with a trained run of each kind, pushed by the recipes; their folders and all caches are deleted."""
    folder = tmp_path_factory.mktemp("hub")
    with HubServer() as server, hub_client.using(server, folder / "home", server.token) as patch:
        HfApi().create_repo(BASE)
        HfApi().upload_folder(repo_id=BASE, folder_path=checkpoint)
        server.expected = {}
        for name, (recipe, extra) in RUNS.items():
            data = multi_label_files if "multi_label" in extra else files
            options = {"num_train_epochs": "2", "hub_model_id": f"alice/{name}", "push_to_hub": "true", **extra}
            options |= {} if recipe == "instruct" else {"label_list": None}
            options = arguments(recipe, BASE, data, folder / name, **{k: v for k, v in options.items() if v})
            run_recipe(recipe, [*options, "--label_list", *NAMES, "--hub_private_repo", "true"], patch)
            server.expected[name] = TextClassifier.from_pretrained(folder / name, calibrated=False).predict_proba(TEXTS)
        shutil.rmtree(folder)
        yield server


@pytest.fixture
def stock_names():
    """The second argument that the stock classes need for an adapter: it does not hold them."""
    space = LabelSpace(NAMES)
    return {"id2label": space.id2label, "label2id": space.label2id, "problem_type": space.problem_type}


def export(repo, output, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["export.py", "--model_name_or_path", repo, "--output_dir", str(output)])
    run_as_main(ROOT / "recipes" / "export.py")


def in_order(found):
    """The probabilities of a pipeline's output for all labels, in the order of the label space."""
    return np.array([[{row["label"]: row["score"] for row in rows}[name] for name in NAMES] for rows in found])


def without_this_package(hub, repo, approach, sequences, tmp_path):
    """The logits of each of some sequences of token ids."""
    path = tmp_path / "logits.pt"
    command = ["-c", STOCK, repo, approach, repr(sequences), str(path)]
    done = hub_client.run(hub, command, tmp_path / "other", hub.token, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(path, weights_only=True)


def test_an_embedding_based_adapter_is_the_same_in_five_ways(hub, stock_names, tmp_path, monkeypatch):
    repo, expected = "alice/embedding", hub.expected["embedding"]
    assert np.abs(expected - 1 / 3).max() > 0.2  # it has learned something that could be lost
    ours = TextClassifier.from_pretrained(repo, calibrated=False)
    np.testing.assert_allclose(ours.predict_proba(TEXTS), expected, atol=1e-4)

    config = AutoConfig.from_pretrained(repo, subfolder="config")
    assert isinstance(config, CausalLMForLastTokenClassificationConfig)
    auto = AutoModelForSequenceClassification.from_pretrained(repo, config=config)
    assert isinstance(auto, CausalLMForLastTokenClassification)
    model = AutoModelForSequenceClassification.from_pretrained(repo, **stock_names)
    for found in (
        pipeline("text-classification", model=auto, tokenizer=repo)(TEXTS, top_k=None, batch_size=3),
        pipeline("text-classification", model=model, tokenizer=repo)(TEXTS, top_k=None),
        pipeline("text-classification", repo, tokenizer=repo, model_kwargs=stock_names)(TEXTS, top_k=None),
    ):
        np.testing.assert_allclose(in_order(found), expected, atol=1e-4)

    ids = ours.scorer.encoder.encode(TEXTS[0])
    (logits,) = without_this_package(hub, repo, "embedding", [ids], tmp_path)
    np.testing.assert_allclose(logits.softmax(-1)[0].numpy(), expected[0], atol=1e-4)

    export(repo, tmp_path / "exported", monkeypatch)
    exported = pipeline("text-classification", str(tmp_path / "exported"))
    assert type(exported.model).__name__ == "LlamaForSequenceClassification"
    np.testing.assert_allclose(in_order(exported(TEXTS, top_k=None)), expected, atol=1e-4)


def test_an_instruction_based_adapter_is_the_same_in_five_ways(hub, tmp_path, monkeypatch):
    repo, expected = "alice/instruction", hub.expected["instruction"]
    assert np.abs(expected - 1 / 3).max() > 0.1
    ours = TextClassifier.from_pretrained(repo, calibrated=False)
    np.testing.assert_allclose(ours.predict_proba(TEXTS), expected, atol=1e-4)

    template, verbalizer = PromptTemplate(max_length=128), Verbalizer(LabelSpace(NAMES))
    tokenizer = AutoTokenizer.from_pretrained(repo)
    auto = AutoModelForCausalLM.from_pretrained(repo)
    served = pipeline("text-generation", repo, tokenizer=repo).model
    export(repo, tmp_path / "exported", monkeypatch)
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert not hasattr(exported, "peft_config")
    for model in (auto, served, exported):
        scorer = LabelScorer(model.float(), tokenizer, template=template, verbalizer=verbalizer)
        np.testing.assert_allclose(scorer.probabilities(TEXTS), expected, atol=1e-4)

    ids = ours.scorer.prompt_ids(TEXTS)[0]
    scores, answers = [], ours.scorer.answer_ids
    found = without_this_package(hub, repo, "instruction", [ids + answer for answer in answers], tmp_path)
    for answer, logits in zip(answers, found, strict=True):
        steps = logits[0, len(ids) - 1 : -1].log_softmax(-1)
        scores.append(steps[torch.arange(len(answer)), torch.tensor(answer)].sum())
    np.testing.assert_allclose(torch.stack(scores).softmax(-1).numpy(), expected[0], atol=1e-4)


def test_full_models_need_no_second_argument(hub):
    repo, expected = "alice/full", hub.expected["full"]
    config = AutoConfig.from_pretrained(repo)
    assert config.id2label == dict(enumerate(NAMES))
    model = AutoModelForSequenceClassification.from_pretrained(repo)
    assert isinstance(model, CausalLMForLastTokenClassification)
    found = pipeline("text-classification", repo)(TEXTS, top_k=None, batch_size=2)
    np.testing.assert_allclose(in_order(found), expected, atol=1e-4)


def test_pipelines_name_rank_and_truncate(hub):
    model = CausalLMForLastTokenClassification.from_pretrained("alice/embedding")
    classify = pipeline("text-classification", model=model, tokenizer="alice/embedding")
    best = hub.expected["embedding"].argmax(1)
    assert [row["label"] for row in classify(TEXTS)] == [NAMES[index] for index in best]
    two = classify(TEXTS[0], top_k=2)
    assert len(two) == 2
    assert two[0]["score"] >= two[1]["score"]
    long = TEXTS[1] * 40  # far beyond the model's context
    ids = classify.tokenizer(long)["input_ids"][:32]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits
    found = classify(long, truncation=True, max_length=32, top_k=None)
    np.testing.assert_allclose(in_order([found])[0], logits.softmax(-1)[0].numpy(), atol=1e-5)


def test_a_multi_label_pipeline_is_a_sigmoid(hub, stock_names):
    repo, expected = "alice/multi_label", hub.expected["multi_label"]
    model = CausalLMForLastTokenClassification.from_pretrained(repo)
    stock = {**stock_names, "problem_type": "multi_label_classification"}
    for classify in (
        pipeline("text-classification", model=model, tokenizer=repo),
        pipeline("text-classification", repo, tokenizer=repo, model_kwargs=stock),
    ):
        np.testing.assert_allclose(in_order(classify(TEXTS, top_k=None)), expected, atol=1e-4)
    assert np.abs(expected.sum(1) - 1).max() > 0.05


def _scored(repo, **kwargs):
    return TextClassifier.from_pretrained(repo, **kwargs).scorer.model


DOORS = {
    "TextClassifier": ("alice/embedding", _scored),
    "TextClassifier, label scoring": ("alice/instruction", _scored),
    "our class": ("alice/embedding", CausalLMForLastTokenClassification.from_pretrained),
    "Auto class, full model": ("alice/full", AutoModelForSequenceClassification.from_pretrained),
}


@pytest.mark.parametrize("door", DOORS)
def test_revision_token_and_caches_are_heeded(hub, tmp_path, door):
    repo, load = DOORS[door]
    weights = "model.safetensors" if repo == "alice/full" else "adapter_model.safetensors"
    HfApi().create_branch(repo, branch="damaged", exist_ok=True)
    HfApi().upload_file(path_or_fileobj=b"damaged", path_in_repo=weights, repo_id=repo, revision="damaged")
    with pytest.raises(Exception, match=r"damaged|HeaderTooSmall|header"):
        load(repo, revision="damaged")
    with pytest.raises(OSError, match=r"alice/"):
        load(repo, token=hub.add_user("bob"), cache_dir=tmp_path / "bob")
    with pytest.raises(OSError, match=r"alice/|couldn't connect"):
        load(repo, cache_dir=tmp_path / "cache", local_files_only=True)
    load(repo, cache_dir=tmp_path / "cache", token=hub.token)
    before = len(hub.requests)
    load(repo, cache_dir=tmp_path / "cache", local_files_only=True)
    assert len(hub.requests) == before


@pytest.mark.parametrize("door", DOORS)
def test_dtype_quantisation_and_device_map_are_heeded(hub, door):
    repo, load = DOORS[door]
    model = load(repo, dtype=torch.bfloat16, device_map={"": "cpu"})
    types = {name: parameter.dtype for name, parameter in model.named_parameters()}
    assert types["model.embed_tokens.weight"] == torch.bfloat16
    adapter = [types[name] for name in types if "lora" in name or name.startswith("score")]
    assert set(adapter) == {torch.float32}
    assert model.device.type == "cpu"
    with pytest.raises(ValueError, match="device_map"):
        load(repo, device_map="nowhere")
    config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    assert load(repo, quantization_config=config).is_loaded_in_4bit
    assert not getattr(load(repo), "is_loaded_in_4bit", False)


def test_auto_classes_take_the_revision_of_an_adapter_as_an_argument_of_its_own(hub, stock_names):
    """Upstream looks for the adapter's revision in the base model's repository (transformers 5.23)."""
    repo, sha = "alice/embedding", HfApi().repo_info("alice/embedding").sha
    with pytest.raises(OSError, match=r"tiny-base"):
        AutoModelForSequenceClassification.from_pretrained(repo, revision=sha, **stock_names)
    model = AutoModelForSequenceClassification.from_pretrained(repo, adapter_kwargs={"revision": sha}, **stock_names)
    found = pipeline("text-classification", model=model, tokenizer=repo)(TEXTS, top_k=None)
    np.testing.assert_allclose(in_order(found), hub.expected["embedding"], atol=1e-4)


def test_the_cards_of_pushed_runs_are_valid(hub, monkeypatch):
    def post(url, **kwargs):  # huggingface_hub before 2.4 asks huggingface.co whatever its endpoint is
        return get_session().post(url.replace("https://huggingface.co", constants.ENDPOINT), **kwargs)

    monkeypatch.setattr("huggingface_hub.repocard.get_session", lambda: SimpleNamespace(post=post))
    for name in RUNS:
        card = ModelCard.load(f"alice/{name}")
        before = hub.routes().count("validate_yaml")
        card.validate()
        assert hub.routes().count("validate_yaml") == before + 1
        assert card.data.eval_results[0].metric_value == pytest.approx(
            json.loads(hub.files(f"alice/{name}")["metrics.json"])["test"]["accuracy"], abs=1e-6
        )
