"""Publishing runs, and loading them again with nothing local left, against a Hub on loopback."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import hub_client
import numpy as np
import pytest
import torch
from datasets import Dataset
from hub_server import HubServer
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from safetensors.torch import save_file
from test_classifier import LABELS, TEXTS, save_folder
from test_recipes import arguments
from test_recipes import run as run_recipe
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace, TextClassifier
from hf_causal_clf.backbone.batching import pad
from hf_causal_clf.runs.run import Run
from hf_causal_clf.sharing.hub import push_run
from hf_causal_clf.task.documents import DocumentEncoder

BASE, REPO = "alice/tiny-base", "alice/news"
SECRET = "the patient John Doe was born in Springfield"
STOCK = """
import sys
sys.modules["hf_causal_clf"] = None  # cannot be imported
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
repo, approach, ids, path = sys.argv[1], sys.argv[2], eval(sys.argv[3]), sys.argv[4]
if approach == "embedding":
    model = AutoPeftModelForSequenceClassification.from_pretrained(repo, num_labels=3, dtype=torch.float32)
else:
    model = AutoPeftModelForCausalLM.from_pretrained(repo, dtype=torch.float32)
with torch.no_grad():
    logits = [model.eval()(input_ids=torch.tensor([each])).logits for each in ids]
torch.save(logits, path)
"""


def finish(folder: Path, labels: LabelSpace = LABELS) -> None:
    """Give a run folder what evaluation leaves, and what must never be published."""
    probabilities = np.tile(np.array([0.5, 0.3, 0.2]), (4, 1))
    part = {"f1_macro": 0.5, "f1_micro": 0.5, "f1_weighted": 0.5, "accuracy": 0.5, "nll": 1.0, "brier": 0.5, "ece": 0.1}
    part |= {f"uncalibrated_{name}": value for name, value in part.items()}
    part |= {f"{kind}_{average}": 0.5 for kind in ("precision", "recall") for average in ("micro", "macro", "weighted")}
    training = {"trainable_parameters": 10, "total_parameters": 100, "peak_memory_bytes": 1, "train_loss": 1.0}
    if json.loads((folder / "classification.json").read_text())["approach"] == "instruction":
        part |= {"malformed_rate": 0.0, **{f"generation_{name}": part[name] for name in ("f1_macro", "f1_micro")}}
    (folder / "metrics.json").write_text(json.dumps({"validation": part, "test": part, "training": training}))
    names = [labels.names[0]] * 4
    rows = {"id": [SECRET] * 4, "gold": names, "predicted": names, "probabilities": probabilities.tolist()}
    Dataset.from_dict(rows).to_parquet(folder / "predictions.parquet")
    (folder / "figures").mkdir()
    (folder / "figures" / "reliability_diagram.png").write_bytes(b"png")
    (folder / "training_args.bin").write_bytes(b"pickle " + SECRET.encode())
    (folder / "checkpoint-3").mkdir()
    save_file({"x": torch.zeros(1)}, folder / "checkpoint-3" / "optimizer.safetensors")


@pytest.fixture
def hub(checkpoint, tmp_path):
    """A Hub with the base model on it."""
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        HfApi().create_repo(BASE)
        HfApi().upload_folder(repo_id=BASE, folder_path=checkpoint)
        yield server


@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_pushed_run_loads_everywhere_with_equal_probabilities(hub, checkpoint, tmp_path, approach):
    folder = tmp_path / "run"
    save_folder(folder, checkpoint, approach)
    finish(folder)
    classifier = TextClassifier.from_pretrained(folder)
    expected = classifier.predict_proba(TEXTS)
    ids = classifier.scorer.prompt_ids(TEXTS)[0] if approach == "instruction" else [5, 6, 7]
    assert classifier.push_to_hub(REPO, base_model=BASE, private=True) == REPO
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "home")

    loaded = TextClassifier.from_pretrained(REPO)
    np.testing.assert_allclose(loaded.predict_proba(TEXTS), expected, atol=1e-5)
    config = json.loads(hub.files(REPO)["adapter_config.json"])
    assert config["base_model_name_or_path"] == BASE
    ours = loaded.scorer.model
    with torch.no_grad():
        logits = ours(input_ids=torch.tensor([ids])).logits
    if approach == "embedding":
        model = CausalLMForLastTokenClassification.from_pretrained(REPO)
        assert model.config.label_space == LABELS
        names = {"num_labels": 3, "id2label": LABELS.id2label}
        stock = AutoModelForSequenceClassification.from_pretrained(REPO, **names).eval()
        encoder = DocumentEncoder(AutoTokenizer.from_pretrained(REPO), 160)
        batch = pad([encoder.encode(text) for text in TEXTS], 0)
        stock.config.get_text_config().pad_token_id = None
        with torch.no_grad():
            alone = [stock(input_ids=row[mask.bool()][None]).logits for row, mask in zip(*batch.values(), strict=True)]
        np.testing.assert_allclose(torch.cat(alone).softmax(-1).numpy(), expected, atol=1e-4)
    path = tmp_path / "logits.pt"
    arguments = ["-c", STOCK, REPO, approach, repr([ids]), str(path)]
    done = hub_client.run(hub, arguments, tmp_path / "other", hub.token, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    torch.testing.assert_close(torch.load(path, weights_only=True)[0], logits, atol=1e-4, rtol=1e-4)


def test_nothing_but_what_others_need_is_published(hub, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "hf_planted_secret_token")
    save_folder(tmp_path / "run", checkpoint, "instruction")
    finish(tmp_path / "run")
    run = Run.read(tmp_path / "run")
    replace(run, training={**run.training, "text_column": SECRET}).write(tmp_path / "run")
    push_run(tmp_path / "run", REPO, base_model=BASE)
    names = set(hub.files(REPO))
    assert {
        "adapter_model.safetensors",
        "adapter_config.json",
        "classification.json",
        "metrics.json",
        "README.md",
    } <= names
    assert "figures/reliability_diagram.png" in names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".parquet")) or name.startswith("checkpoint")]
    for secret in (SECRET, str(tmp_path), checkpoint, str(Path.home()) + "/", "hf_planted_secret_token", hub.token):
        assert not hub.find(secret), secret
    assert f"base_model: {BASE}" in hub.files(REPO)["README.md"].decode()


def test_a_second_push_replaces_the_first_and_both_have_a_revision(hub, checkpoint, tmp_path):
    save_folder(tmp_path / "one", checkpoint, "embedding")
    finish(tmp_path / "one")
    push_run(tmp_path / "one", REPO, base_model=BASE)
    first = HfApi().repo_info(REPO).sha
    expected = TextClassifier.from_pretrained(tmp_path / "one").predict_proba(TEXTS)
    save_folder(tmp_path / "two", checkpoint, "instruction")
    finish(tmp_path / "two")
    (tmp_path / "two" / "figures" / "reliability_diagram.png").unlink()
    push_run(tmp_path / "two", REPO, base_model=BASE)
    assert TextClassifier.from_pretrained(REPO).approach == "instruction"
    assert "figures/reliability_diagram.png" not in hub.files(REPO)
    old = TextClassifier.from_pretrained(REPO, revision=first)
    np.testing.assert_allclose(old.predict_proba(TEXTS), expected, atol=1e-5)


def test_private_missing_and_failed(hub, checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    finish(tmp_path / "run")
    with hub.fail("commit", status=400), pytest.raises(HfHubHTTPError, match="Injected failure"):
        push_run(tmp_path / "run", REPO, base_model=BASE)
    with pytest.raises(FileNotFoundError, match=r"has no classification\.json"):
        TextClassifier.from_pretrained(REPO)
    push_run(tmp_path / "run", "alice/secret", base_model=BASE, private=True)
    with pytest.raises(OSError, match=r"alice/secret"):
        TextClassifier.from_pretrained("alice/secret", token=hub.add_user("bob"), cache_dir=tmp_path / "bob")
    with pytest.raises(OSError, match=r"alice/nowhere"):
        TextClassifier.from_pretrained("alice/nowhere")


def test_what_cannot_be_pushed(checkpoint, tmp_path):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    with pytest.raises(FileNotFoundError, match="only a finished run is pushed"):
        push_run(tmp_path / "run", REPO)
    finish(tmp_path / "run")
    with pytest.raises(ValueError, match="The base model is a local folder"):
        push_run(tmp_path / "run", REPO)
    with pytest.raises(ValueError, match="loaded from a run's folder"):
        TextClassifier(None, LABELS).push_to_hub(REPO)


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_recipes_push_the_finished_run(hub, checkpoint, files, tmp_path, monkeypatch, recipe):
    options = {"max_train_samples": "12", "num_train_epochs": "1", "hub_model_id": REPO, "push_to_hub": "true"}
    options = arguments(recipe, checkpoint, files, tmp_path / "run", **options)
    with pytest.raises(ValueError, match="--hub_base_model user/model"):
        run_recipe(recipe, options, monkeypatch)
    run_recipe(recipe, [*options, "--hub_base_model", BASE, "--hub_private_repo", "true"], monkeypatch)
    texts = TEXTS[:2]
    expected = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(texts)
    shutil.rmtree(tmp_path / "run")
    np.testing.assert_allclose(TextClassifier.from_pretrained(REPO).predict_proba(texts), expected, atol=1e-5)
    assert hub.repo(REPO, "model").private
    assert not [name for name in hub.files(REPO) if name.endswith((".bin", ".parquet", ".pt"))]
    assert "config/config.json" in hub.files(REPO)
    assert not hub.find(str(tmp_path))
    assert not hub.outside


@pytest.mark.parametrize("recipe", ["embed", "instruct"])
def test_a_trainer_pushes_the_same_repository(hub, checkpoint, files, tmp_path, monkeypatch, recipe):
    from hf_causal_clf.embedding import trainer as embedding
    from hf_causal_clf.instruction import trainer as instruction

    built = []
    module, name = {"embed": (embedding, "embedding_trainer"), "instruct": (instruction, "instruction_trainer")}[recipe]
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **kwargs: built.append(original(*args, **kwargs)) or built[0])
    options = {"max_train_samples": "12", "num_train_epochs": "1", "hub_model_id": REPO, "hub_token": hub.token}
    options = arguments(recipe, BASE, files, tmp_path / "run", **options)
    run_recipe(recipe, [*options, "--hub_private_repo", "true"], monkeypatch)
    (trainer,) = built
    assert trainer.push_to_hub() == REPO
    push_run(tmp_path / "run", REPO, revision="again")
    assert hub.files(REPO) == hub.files(REPO, "again")
    assert hub.repo(REPO, "model").private
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        trainer.push_to_hub()
