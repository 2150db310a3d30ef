"""Distillation as a user runs it: students of both kinds, what they keep, and what is refused."""

import json
import shutil
from pathlib import Path

import hub_client
import numpy as np
import onnxruntime
import pytest
import torch
import yaml
from conftest import make_rows, run_as_main, write_jsonl
from hub_server import HubServer
from safetensors.torch import load_file
from teachers import write_teacher
from tiny import save_encoder
from transformers import AutoModelForMaskedLM, AutoTokenizer, DistilBertConfig, RobertaConfig, pipeline

from hf_causal_clf import TextClassifier
from hf_causal_clf.baselines.encoder_training import fine_tuned_encoder
from hf_causal_clf.data.arguments import DataArguments
from hf_causal_clf.data.splits import load_data
from hf_causal_clf.distillation import teacher as teaching
from hf_causal_clf.distillation.loss import SoftLabelLoss
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.runs.results import read_results
from hf_causal_clf.runs.run import Run

ROOT = Path(__file__).parents[2]
OPTIONS = {
    "max_length": "32",
    "learning_rate": "5e-3",
    "num_train_epochs": "2",
    "seed": "7",
    "report_to": "none",
    "dataloader_pin_memory": "false",
}


@pytest.fixture(autouse=True)
def _only_what_counts(monkeypatch):
    """Looking for memory to free takes longer than all trainings."""
    monkeypatch.setattr("gc.collect", lambda *args: 0)


@pytest.fixture(scope="module")
def teachers(files, multi_label_files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    return {
        False: write_teacher(folder / "single", files),
        True: write_teacher(folder / "multi", multi_label_files, multi_label=True),
    }


@pytest.fixture(scope="module")
def encoder(tokenizer, tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("bert"), tokenizer)


@pytest.fixture
def distil(teachers, encoder, files, tmp_path, monkeypatch):
    """Runs the recipe with the teacher of a single-label task, unless it is told otherwise."""

    def distil(output="student", **changes):
        options = {"teacher": str(teachers[False]), "model_name_or_path": encoder, **files, **OPTIONS}
        options |= {"output_dir": str(tmp_path / output), **{name: str(value) for name, value in changes.items()}}
        words = [part for name, value in options.items() for part in (f"--{name}", value)]
        monkeypatch.setattr("sys.argv", ["distill.py", *words])
        run_as_main(ROOT / "recipes" / "distill.py")
        return tmp_path / output

    return distil


def unlabelled(folder, rows):
    return write_jsonl(folder / "more.jsonl", [{"text": row["text"]} for row in rows])


def read(folder):
    return json.loads((folder / "metrics.json").read_text()), json.loads((folder / "classification.json").read_text())


@pytest.mark.parametrize("multi_label", [False, True])
def test_an_encoder_is_a_run_and_a_stock_checkpoint(
    multi_label, distil, teachers, multi_label_files, files, tmp_path, capsys
):
    """Of nine documents without labels, two are in the test documents, one in training, one is there twice."""
    given = multi_label_files if multi_label else files
    new = make_rows(5, 900, multi_label)
    test, train = make_rows(2, 200, multi_label), make_rows(1, 0, multi_label)
    more = unlabelled(tmp_path, [*test, *new, *train, {"text": new[0]["text"].upper()}])
    student = distil(
        **given, teacher=teachers[multi_label], multi_label=multi_label, unlabelled_file=more, max_train_samples=40
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "Documents without labels: 5. Left out are 2 that are in the test documents" in said
    metrics, description = read(student)
    facts = description["training"]["distillation"]
    assert (facts["labelled"], facts["unlabelled"]) == (40, 5)
    taught = json.loads((teachers[multi_label] / "metrics.json").read_text())["test"]
    assert metrics["teacher"]["f1_macro"] == pytest.approx(taught["f1_macro"])
    card = (student / "README.md").read_text()
    assert f"keeps {100 * metrics['test']['f1_macro'] / taught['f1_macro']:.1f} % of its teacher's" in card
    for path in (tmp_path, teachers[multi_label]):
        assert str(path) not in card + json.dumps(facts)
    assert not (student / ".teacher").exists()

    data = load_data(DataArguments(**given, multi_label=multi_label))
    texts, results = data.texts("test"), read_results(student, data.label_space)
    found = TextClassifier.from_pretrained(student).predict_proba(texts)
    np.testing.assert_allclose(found, results.probabilities, atol=1e-6)
    stock = pipeline("text-classification", str(student), top_k=None)
    scores = [{each["label"]: each["score"] for each in row} for row in stock(texts, truncation=True, max_length=32)]
    found = [[row[name] for name in data.label_space.names] for row in scores]
    plain = TextClassifier.from_pretrained(student, calibrated=False).predict_proba(texts)
    np.testing.assert_allclose(found, plain, atol=1e-5)


def save_other_encoder(kind, folder, tokenizer):
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "pad_token_id": 2, "max_position_embeddings": 67}
    if kind == "distilbert":  # the layer before its classifier is new, too
        config = DistilBertConfig(**sizes, dim=32, hidden_dim=48, n_layers=2, n_heads=4)
    else:
        layers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
        config = RobertaConfig(**sizes, **layers)
    AutoModelForMaskedLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["distilbert", "roberta"])
def test_adapters_of_an_encoder_end_up_in_its_weights(kind, distil, tokenizer, tmp_path):
    """What is learned by adapters is a matrix of their rank; what is new in the encoder is learned whole."""
    base = save_other_encoder(kind, tmp_path / "base", tokenizer)
    options = {"model_name_or_path": base, "use_peft": True, "lora_r": 3, "learning_rate": 0.02, "num_train_epochs": 4}
    student = distil(**options)
    assert not (student / "adapter_config.json").exists()
    before, after = load_file(Path(base) / "model.safetensors"), load_file(student / "model.safetensors")
    linear = 0
    for key, weight in after.items():
        if key not in before:
            assert key.startswith(("classifier", "pre_classifier"))
            continue
        change = (weight - before[key]).double()
        if weight.ndim == 2 and "embeddings" not in key:
            linear += 1
            assert 1 <= torch.linalg.matrix_rank(change, tol=1e-5) <= 3, key
        else:
            assert not change.any(), key
    assert linear == 12
    metrics, description = read(student)
    assert description["training"]["lora"]["r"] == 3
    assert metrics["training"]["trainable_parameters"] < sum(weight.numel() for weight in after.values()) / 2
    card = (student / "README.md").read_text()
    assert "by LoRA adapters, which were added to its weights" in card
    assert "rank 3" in card
    classifier = TextClassifier.from_pretrained(student)
    results = read_results(student, classifier.label_space)
    texts = [row["text"] for row in make_rows(len(results.gold), 200)]
    np.testing.assert_allclose(classifier.predict_proba(texts), results.probabilities, atol=1e-6)


STOCK = """
import json, sys
from transformers import pipeline
rows = pipeline("text-classification", sys.argv[1], top_k=None)(json.loads(sys.argv[2]), truncation=True, max_length=32)
assert "hf_causal_clf" not in sys.modules
print(json.dumps([{each["label"]: each["score"] for each in row} for row in rows]))
"""


def test_a_pushed_student_is_the_same_in_stock_transformers_and_onnx_runtime(distil, files, tmp_path, monkeypatch):
    """The process that reads it from the Hub does not import this package."""
    texts = [row["text"] for row in make_rows(4, 700)]
    with HubServer() as server, hub_client.using(server, tmp_path / "home", server.token):
        student = distil(push_to_hub=True, hub_model_id="alice/student", num_train_epochs=8, gold_weight=1)
        expected = TextClassifier.from_pretrained(student, calibrated=False).predict_proba(texts)
        assert expected.max() > 0.4  # it has learned something that could be lost
        names = Run.read(student).label_space.names
        shutil.rmtree(student)
        ours = TextClassifier.from_pretrained("alice/student", calibrated=False).predict_proba(texts)
        np.testing.assert_allclose(ours, expected, atol=1e-6)
        command = ["-c", STOCK, "alice/student", json.dumps(texts)]
        done = hub_client.run(server, command, tmp_path / "other", server.token, cwd=tmp_path)
        assert done.returncode == 0, done.stderr[-2000:]
        found = [[row[name] for name in names] for row in json.loads(done.stdout)]
        np.testing.assert_allclose(found, expected, atol=1e-5)
        words = ["--model_name_or_path", "alice/student", "--output_dir", str(tmp_path / "out"), "--onnx", "true"]
        monkeypatch.setattr("sys.argv", ["export.py", *words])
        run_as_main(ROOT / "recipes" / "export.py")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="np")
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"), providers=["CPUExecutionProvider"])
    wanted = {each.name for each in session.get_inputs()}
    logits = session.run(["logits"], {name: ids.astype(np.int64) for name, ids in inputs.items() if name in wanted})[0]
    np.testing.assert_allclose(to_probabilities(logits, multi_label=False), expected, atol=1e-4)


def test_a_decoder_is_an_adapter_with_a_head(distil, checkpoint, files, tmp_path):
    options = {"pooling": "last", "document_suffix": "none", "head_init": "random", "dtype": "float32"}
    more = unlabelled(tmp_path, make_rows(6, 900))
    student = distil(model_name_or_path=checkpoint, unlabelled_file=more, **options)
    assert (student / "adapter_model.safetensors").is_file()
    description = read(student)[1]
    assert description["approach"] == "embedding"
    assert description["training"]["distillation"]["unlabelled"] == 6
    assert "It is the student of another classifier (TF-IDF" in (student / "README.md").read_text()
    data = load_data(DataArguments(**files))
    found = TextClassifier.from_pretrained(student).predict_proba(data.texts("test"))
    np.testing.assert_allclose(found, read_results(student, data.label_space).probabilities, atol=1e-5)


def test_gold_weight_1_trains_what_the_encoder_baseline_trains(distil, encoder, files, tmp_path):
    student = distil(gold_weight=1, num_train_epochs=1, distillation_temperature=3)
    data = load_data(DataArguments(**files))
    settings = {"learning_rate": 5e-3, "num_train_epochs": 1, "batch_size": 16, "seed": 7, "max_length": 32}
    outcome = fine_tuned_encoder(data, encoder, **settings, output_dir=tmp_path / "baseline")
    found = TextClassifier.from_pretrained(student, calibrated=False).predict_proba(data.texts("test"))
    np.testing.assert_allclose(found, to_probabilities(outcome.logits["test"], multi_label=False), atol=1e-5)
    other = distil("other", gold_weight=0, num_train_epochs=1, distillation_temperature=3)
    moved = TextClassifier.from_pretrained(other, calibrated=False).predict_proba(data.texts("test"))
    assert np.abs(moved - found).max() > 1e-4


@pytest.mark.usefixtures("quickstart_models")
@pytest.mark.parametrize(
    "path", sorted((ROOT / "recipes" / "configs" / "distill").iterdir()), ids=lambda path: path.stem
)
def test_every_configuration_has_known_options_and_opens_with_its_command(path, teachers, tmp_path, monkeypatch):
    given = yaml.safe_load(path.read_text())
    command = f"# hf-causal-clf distill --config recipes/configs/distill/{path.name} --teacher "
    assert path.read_text().startswith(command)
    (tmp_path / "documents.jsonl").write_text("{}\n")
    files = {name: str(tmp_path / "documents.jsonl") for name in given if name.endswith("_file")}
    options = {"config": str(path), "teacher": str(teachers[False]), **files, "output_dir": str(teachers[False])}
    monkeypatch.setattr(
        "sys.argv", ["distill.py", *(part for pair in options.items() for part in (f"--{pair[0]}", pair[1]))]
    )
    with pytest.raises(ValueError, match="is the folder of the model, teacher"):  # everything else was understood
        run_as_main(ROOT / "recipes" / "distill.py")


def test_a_kill_in_scoring_loses_one_shard_and_a_finished_run_is_finished(distil, tmp_path, monkeypatch, capsys):
    """Two shards of the 48 training documents are scored before; the first start is killed in the third.

    The 17 test documents are scored too, because the teacher does not tell which documents it was tested on.
    """
    monkeypatch.setattr(teaching, "_SHARD", 10)
    scored, killed = [], []
    score = TextClassifier.score

    def counted(self, texts, **options):
        if self.approach == "tfidf":
            if len(scored) == 2 and not killed:
                killed.append(True)
                raise RuntimeError("killed")
            scored.append(len(texts))
        return score(self, texts, **options)

    monkeypatch.setattr(TextClassifier, "score", counted)
    with pytest.raises(RuntimeError, match="killed"):
        distil()
    assert scored == [10, 10]
    (tmp_path / "student" / ".teacher" / "mine.txt").write_text("mine")
    student = distil()
    assert scored == [10, 10, 10, 10, 8, 10, 7]
    assert [path.name for path in (student / ".teacher").iterdir()] == ["mine.txt"]
    capsys.readouterr()
    distil()
    assert "already finished" in capsys.readouterr().out
    assert scored == [10, 10, 10, 10, 8, 10, 7]
    with pytest.raises(ValueError, match=r"gold_weight was 'the default', is 0\.2"):
        distil(gold_weight=0.2)
    assert {"classification.json", "predictions.parquet", "model.safetensors"} < {
        each.name for each in student.iterdir()
    }


def test_a_training_that_was_cut_off_goes_on_to_the_same_student(distil, tmp_path, monkeypatch):
    """It is killed in its second epoch."""
    more, calls = {"unlabelled_file": unlabelled(tmp_path, make_rows(6, 900))}, []
    whole = distil("whole", **more)
    with monkeypatch.context() as patch:
        compute = SoftLabelLoss.__call__

        def killed(self, *given, **options):
            calls.append(1)
            if len(calls) == 7:  # after four steps, an evaluation and one step
                raise RuntimeError("killed")
            return compute(self, *given, **options)

        patch.setattr(SoftLabelLoss, "__call__", killed)
        with pytest.raises(RuntimeError, match="killed"):
            distil(**more)
    with pytest.raises(ValueError, match="--resume_from_checkpoint true"):
        distil(**more)
    student = distil(**more, resume_from_checkpoint=True)
    texts = [row["text"] for row in make_rows(17, 200)]
    found, expected = (TextClassifier.from_pretrained(each).predict_proba(texts) for each in (student, whole))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_documents_are_selected_that_teach_and_scores_serve_the_next_student(distil, files, tmp_path, monkeypatch):
    """Of the rest of the training documents, whose labels are not read."""
    options = {"unlabelled_rest": True, "max_train_samples": 20, "select": 9, "select_by": "teaching"}
    student = distil(**options, teacher_scores=tmp_path / "scores")
    facts = read(student)[1]["training"]["distillation"]
    assert (facts["labelled"], facts["unlabelled"], facts["select_by"]) == (20, 9, "teaching")
    predict = TextClassifier.predict_proba

    def not_again(self, texts, **options):
        assert self.approach == "encoder"  # not the teacher
        return predict(self, texts, **options)

    monkeypatch.setattr(TextClassifier, "predict_proba", not_again)
    distil("other", **options, teacher_scores=tmp_path / "scores", distillation_temperature=2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"teacher": "nowhere/at/all"}, "There is no folder 'nowhere/at/all'"),
        ({"gold_weight": 1.5}, "gold_weight is a share, from 0 to 1; got 1.5"),
        ({"distillation_temperature": 0}, "distillation_temperature must be above 0, got 0"),
        ({"select": 5}, "select is for documents without labels: give unlabelled_file"),
        ({"unlabelled_rest": True}, "set that, or leave unlabelled_rest out"),
        ({"unlabelled_file": "none.jsonl"}, "There is no file 'none.jsonl'. Check unlabelled_file"),
        (
            {"lora_r": 4, "pooling": "mean"},
            "is an encoder.*leave lora_r, pooling out.*for adapters, set use_peft to true",
        ),
        ({"use_peft": True, "lora_layers": 1}, "is an encoder, trained on adapters, .*leave lora_layers out"),
        ({"folds": 2}, "folds is not for a distillation"),
        ({"class_weight": "balanced"}, "class_weight is not for a distillation"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor is not for a distillation"),
        ({"head_init": "verbalizer"}, "head_init verbalizer is not for a student"),
    ],
)
def test_mistakes_in_arguments(wrong, message, distil, tmp_path):
    with pytest.raises(ValueError, match=message):
        distil(**wrong)
    assert not (tmp_path / "student").exists()


def test_mistakes_in_documents_are_named_before_a_model_is_loaded(
    distil, teachers, files, multi_label_files, tmp_path, monkeypatch
):
    monkeypatch.setattr(TextClassifier, "from_pretrained", lambda *args, **kwargs: pytest.fail("loaded"))
    with pytest.raises(ValueError, match="is multi-label, and the documents are read as single-label ones"):
        distil(teacher=teachers[True])
    with pytest.raises(ValueError, match="is single-label, and the documents are read as multi-label ones"):
        distil(**multi_label_files, multi_label=True)
    rows = [{**row, "label": row["label"].replace("tech", "art")} for row in make_rows(48)]
    renamed = {split: write_jsonl(tmp_path / f"{split}.jsonl", rows) for split in files}
    with pytest.raises(ValueError, match=r"does not know \['art'\] and has \['tech'\], which no document has"):
        distil(**renamed)
    known = unlabelled(tmp_path, make_rows(3, 200))
    with pytest.raises(ValueError, match="No document without a label is left"):
        distil(unlabelled_file=known)


@pytest.mark.parametrize("place", [".", "student"])
def test_a_student_is_not_put_into_its_teachers_folder(place, distil, teachers, tmp_path):
    own = shutil.copytree(teachers[False], tmp_path / "own")
    before = sorted(own.iterdir())
    with pytest.raises(
        ValueError, match=r"output_dir .* (is the folder of the model, teacher|is inside the folder of)"
    ):
        distil(teacher=own, output_dir=own / place)
    assert sorted(own.iterdir()) == before
