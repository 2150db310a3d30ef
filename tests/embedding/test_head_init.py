"""A head that starts from the answers."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from test_recipes import arguments as command
from test_recipes import run as run_recipe
from test_recipes import run_two
from test_train import RUN_FILES, embedding_arguments
from transformers import AutoModelForCausalLM

from hf_causal_clf import LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.backbone.loading import load_causal_lm
from hf_causal_clf.backbone.settings import base_weights
from hf_causal_clf.embedding.arguments import HeadArguments
from hf_causal_clf.embedding.head_init import read_output_embeddings, suffix_head, verbalizer_head
from hf_causal_clf.embedding.trainer import embedding_trainer
from hf_causal_clf.evaluation.calibration import to_probabilities
from hf_causal_clf.task.documents import DocumentEncoder
from hf_causal_clf.training import train as training_module
from hf_causal_clf.training.arguments import PromptArguments, RunArguments
from hf_causal_clf.training.train import prepare, train

TEXTS = ["the cat sat on the football", "shares in the bank fell " * 60, "phones", "a new film about computers"]
HEAD = HeadArguments(head_init="verbalizer")


def save(folder, name, tokenizer, tied):
    """A checkpoint with tied or with separate output embeddings."""
    config = tiny.make_config(name, len(tokenizer))
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def untrained(checkpoint, folder, files, prompt=None, max_length=120, **model_values):
    """Trainer, encoder and model arguments of a run that starts from the answers, before its first step."""
    data, model_arguments, training = embedding_arguments(checkpoint, folder, files, max_length=max_length)
    for name, value in model_values.items():
        setattr(model_arguments, name, value)
    tokenizer = prepare(model_arguments, training)
    prompt = prompt or PromptArguments()
    encoder = prompt.template(max_length, "tail").bind(tokenizer, prompt.verbalizer(data.label_space))
    trainer = embedding_trainer(data, tokenizer, encoder, model_arguments, training, HEAD, RunArguments())
    return trainer, encoder, model_arguments


def head_logits(trainer, encoder, texts):
    trainer.model.eval()
    with torch.no_grad():
        return torch.cat([trainer.model(torch.tensor([encoder.encode(text)])).logits for text in texts])


def slot_logits(causal_lm, encoder, texts):
    with torch.no_grad():
        return torch.stack([causal_lm(torch.tensor([encoder.prompt_ids(text)])).logits[0, -1] for text in texts])


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
@pytest.mark.parametrize(
    ("name", "tied"),
    [("llama", True), ("llama", False), ("gpt2", True), ("gpt_neox", False), ("gemma3", False), ("opt", True)],
)
def test_untrained_head_is_the_language_model_at_the_answer_slot(name, tied, chat, tokenizer, files, tmp_path):
    checkpoint = save(tmp_path / "model", name, tokenizer, tied)
    prompt = PromptArguments(instruction="Sort: {labels}.", use_chat_template=chat)
    trainer, encoder, _ = untrained(checkpoint, tmp_path / "run", files, prompt)
    first = [ids[0] for ids in encoder.answer_ids]
    assert len(set(first)) == 3
    causal_lm = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    expected = slot_logits(causal_lm, encoder, TEXTS)[:, first].softmax(-1)
    assert expected.amax() > 0.5  # not all the same
    torch.testing.assert_close(head_logits(trainer, encoder, TEXTS).softmax(-1), expected, atol=1e-4, rtol=1e-4)


def test_nf4_base(checkpoint, files, tmp_path):
    trainer, encoder, model_arguments = untrained(
        checkpoint, tmp_path / "run", files, load_in_4bit=True, dtype="bfloat16"
    )
    head = trainer.model.base_model.model.score
    assert {weight.dtype for weight in head.parameters()} == {torch.float32}
    assert not any("bias" in name for name, _ in head.named_parameters())
    causal_lm = load_causal_lm(checkpoint, base_weights(model_arguments))
    expected = slot_logits(causal_lm, encoder, TEXTS)[:, [ids[0] for ids in encoder.answer_ids]].float()
    torch.testing.assert_close(
        head_logits(trainer, encoder, TEXTS).softmax(-1), expected.softmax(-1), atol=0.03, rtol=0.0
    )


def test_multi_label_logits_are_those_of_the_slot_without_their_mean(checkpoint, multi_label_files, tmp_path):
    files = {**multi_label_files, "multi_label": True}
    trainer, encoder, _ = untrained(checkpoint, tmp_path / "run", files, max_length=160)
    first = [ids[0] for ids in encoder.answer_ids]
    logits = slot_logits(AutoModelForCausalLM.from_pretrained(checkpoint).eval(), encoder, TEXTS)[:, first]
    expected = logits - logits.mean(-1, keepdim=True)
    torch.testing.assert_close(head_logits(trainer, encoder, TEXTS), expected, atol=1e-4, rtol=1e-4)


def test_rows_go_up_to_the_first_token_of_their_own():
    weight = torch.randn(20, 6, dtype=torch.bfloat16)
    end = 0
    answers = [[1, 2, 3, end], [1, 2, 4, 5, end], [6, 7, end], [8, end], [8, 9, end]]
    expected = torch.stack([weight[ids].float().mean(0) for ids in ([1, 2, 3], [1, 2, 4], [6], [8], [8, 9])])
    rows = verbalizer_head(weight, answers)
    torch.testing.assert_close(rows, expected - expected.mean(0))
    assert rows.dtype == torch.float32
    assert torch.cdist(rows, rows).fill_diagonal_(1).min() > 0.1


def test_labels_that_begin_alike_start_with_different_rows(checkpoint, files, tmp_path):
    answers = {"business": "news of the bank", "sport": "news of the football", "tech": "news"}
    prompt = PromptArguments(answers=json.dumps(answers))
    trainer, encoder, _ = untrained(checkpoint, tmp_path / "run", files, prompt)
    assert len({ids[0] for ids in encoder.answer_ids}) == 1
    rows = trainer.model.base_model.model.score.modules_to_save["default"].weight.detach()
    assert torch.cdist(rows, rows).fill_diagonal_(1).min() > 0.1


def test_a_checkpoint_without_an_lm_head(checkpoint, files, tokenizer, tmp_path):
    folder = tmp_path / "no head"
    config = tiny.make_config("llama", len(tokenizer))
    AutoModelForCausalLM.from_config(config).model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert read_output_embeddings(str(folder)) is None
    with pytest.raises(ValueError, match=r"has no language-modelling head to start from\. .*set head_init to random"):
        untrained(str(folder), tmp_path / "run", files)


@pytest.mark.parametrize("suffix", ["\n\nTopic:", "\n\nTopic: ", "\n\nIn one word, this text is about:"])
def test_a_head_after_a_suffix_is_the_language_model(suffix, tokenizer, checkpoint):
    names = ["sport", "the bank", "tech"]
    encoder = DocumentEncoder(tokenizer, 60, suffix=suffix)
    head = suffix_head(read_output_embeddings(checkpoint), tokenizer, suffix, names)
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    lead = "" if suffix.endswith(" ") else " "
    first = [encoder._plain.encode(lead + name, continues=True)[0] for name in names]
    assert len(set(first)) == 3
    for text in TEXTS:
        with torch.no_grad():
            output = model(torch.tensor([encoder.encode(text)]), output_hidden_states=True)
        logits = output.logits[0, -1, first]
        torch.testing.assert_close(head @ output.hidden_states[-1][0, -1], logits - logits.mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("names", [["sport", "sport"], ["sport", ""]])
def test_names_that_no_tokens_tell_apart_start_no_head(names, tokenizer, checkpoint):
    assert suffix_head(read_output_embeddings(checkpoint), tokenizer, "\n\nTopic: ", names) is None


def options(**extra):
    return {"head_init": "verbalizer", "max_length": "100", "num_train_epochs": "1", **extra}


@pytest.mark.parametrize("multi_label", [False, True], ids=["single", "multi"])
def test_a_saved_run_predicts_as_the_model_that_was_trained(
    multi_label, checkpoint, files, multi_label_files, tmp_path, monkeypatch
):
    trained = {}

    def train_and_keep(trainer, settings):
        metrics = train(trainer, settings)
        logits = trainer.predict(trainer.eval_dataset).predictions
        probabilities = to_probabilities(logits, multi_label=multi_label)
        rows, back = list(trainer.eval_dataset), np.argsort(trainer.compute_metrics.order)
        trained.update(probabilities=probabilities[back], rows=[rows[place] for place in back])
        return metrics

    monkeypatch.setattr(training_module, "train", train_and_keep)
    extra = {"use_chat_template": "true", "answers": '{"tech": "computers and phones"}', "truncation": "head"}
    data = {**multi_label_files, "multi_label": "true", "max_length": "160"} if multi_label else files
    run_recipe("embed", command("embed", checkpoint, data, tmp_path / "run", **options(**extra, **data)), monkeypatch)
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN_FILES
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert (saved["approach"], saved["pooling"], saved["head_init"]) == ("embedding", "last", "verbalizer")
    assert saved["prompt_template"] == {"instruction": None, "use_chat_template": True, "answer_tokens": 0}
    assert saved["verbalizer"]["answers"]["tech"] == "computers and phones"

    classifier = TextClassifier.from_pretrained(tmp_path / "run", calibrated=False)
    assert classifier.approach == "embedding"
    texts = [json.loads(line)["text"] for line in Path(files_of(data)["validation"]).read_text().splitlines()]
    assert [classifier.scorer.encoder.encode(text) for text in texts] == [row["input_ids"] for row in trained["rows"]]
    np.testing.assert_allclose(classifier.predict_proba(texts), trained["probabilities"], atol=1e-4)
    assert classifier.predict([texts[0]])


def files_of(data):
    return {split: data[f"{split}_file"] for split in ("train", "validation", "test")}


def test_a_run_with_a_random_head_says_so_and_has_no_prompt(checkpoint, files, tmp_path, monkeypatch):
    run_recipe(
        "embed",
        command("embed", checkpoint, files, tmp_path / "run", num_train_epochs="1", head_init="random"),
        monkeypatch,
    )
    saved = json.loads((tmp_path / "run" / "classification.json").read_text())
    assert saved["head_init"] == "random"
    assert saved["prompt_template"] is saved["verbalizer"] is None
    path = tmp_path / "run" / "classification.json"
    before = TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS)
    absent = ("head_init", "prompt_template", "verbalizer")  # from a run of before heads had a choice
    earlier = {name: value for name, value in saved.items() if name not in absent}
    path.write_text(json.dumps({**earlier, "schema_version": 1}))
    np.testing.assert_array_equal(TextClassifier.from_pretrained(tmp_path / "run").predict_proba(TEXTS), before)


def test_two_processes_start_and_end_as_one(checkpoint, files, tmp_path, monkeypatch):
    run_recipe("embed", command("embed", checkpoint, files, tmp_path / "one", **options()), monkeypatch)
    half = options(per_device_train_batch_size="4")
    done = run_two("embed", command("embed", checkpoint, files, tmp_path / "two", **half))
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "two"))
    for split in ("validation", "test"):
        assert two[split] == pytest.approx(one[split], abs=2e-3)


@pytest.mark.parametrize("truncation", ["tail", "head", "both", "head_tail"])
def test_long_documents_are_cut_and_the_prompt_is_not(truncation, tokenizer):
    verbalizer = Verbalizer(LabelSpace(["sport", "business"]))
    encoder = PromptTemplate(max_length=100, truncation=truncation).bind(tokenizer, verbalizer)
    seen = [encoder.encode(text) for text in (TEXTS[1], TEXTS[2])]
    assert len(seen[0]) == 100 - encoder.longest_answer
    for ids in seen:
        assert ids[: len(encoder.prefix_ids)] == encoder.prefix_ids
        assert ids[-len(encoder.suffix_ids) :] == encoder.suffix_ids


MISTAKES = {
    "instruction alone": ({"instruction": "Sort."}, r"\['instruction'\] belong to the prompt, which head_init random"),
    "chat alone": ({"use_chat_template": "true"}, r"\['use_chat_template'\] belong to the prompt.*to verbalizer"),
    "answers alone": ({"answers": '{"tech": "phones"}'}, r"\['answers'\] belong to the prompt"),
    "mean": (options(pooling="mean"), "set pooling to last, not mean"),
    "short prompt": (options(max_length="20"), "max_length=20 leaves no room for the document"),
    "colliding answers": (options(answers='{"tech": "SPORT"}'), "collide"),
    "unknown label": (options(answers='{"film": "film"}'), r"unknown labels \['film'\]"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found_before_any_weights_are_loaded(mistake, checkpoint, files, tmp_path, monkeypatch):
    extra, message = MISTAKES[mistake]
    loaded = []
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *args, **kwargs: loaded.append(args))
    with pytest.raises(ValueError, match=message):
        run_recipe("embed", command("embed", checkpoint, files, tmp_path / "run", **extra), monkeypatch)
    assert not loaded
    assert not (tmp_path / "run").exists()
