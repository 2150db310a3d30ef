"""recipes/export.py --onnx true: one file for ONNX Runtime that gives the run's probabilities."""

import re
import subprocess
import sys
from dataclasses import replace

import hub_client
import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from hub_server import HubServer
from test_classifier import LABELS, TEXTS, save_folder
from test_export import ROOT, export
from tokenizer_families import make_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from hf_causal_clf import LabelSpace, PromptTemplate, TextClassifier, Verbalizer
from hf_causal_clf.evaluation.calibration import Calibration
from hf_causal_clf.runs.run import Prompt, Run, Truncation
from hf_causal_clf.serving.requests import control_tokens
from hf_causal_clf.sharing import onnx as onnx_export


def run_onnx(folder, side="right"):
    """Logits of the texts, padded at a side, and their attention mask."""
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side=side)
    inputs = dict(tokenizer(TEXTS, padding=True, return_tensors="np", return_token_type_ids=False))
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {name: value.astype(np.int64) for name, value in inputs.items()})[0], inputs


@pytest.mark.parametrize(("name", "multi_label"), [("llama", False), ("gpt2", True), ("gemma3", False)])
def test_embedding_run(tokenizer, tmp_path, monkeypatch, capsys, name, multi_label):
    source = tiny.save_checkpoint(tmp_path / "base", name, tokenizer)
    save_folder(tmp_path / "run", source, "embedding", LabelSpace(LABELS.names, multi_label=multi_label))
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--onnx", "true")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2
    assert "model.onnx gives the run's logits within" in printed[1]
    expected = TextClassifier.from_pretrained(tmp_path / "run", calibrated=False).predict_proba(TEXTS)
    for side in ("right", "left"):
        logits = torch.from_numpy(run_onnx(tmp_path / "out", side)[0])
        found = logits.sigmoid() if multi_label else logits.softmax(-1)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    again = TextClassifier.from_pretrained(tmp_path / "out", calibrated=False).predict_proba(TEXTS)
    np.testing.assert_allclose(again, expected, atol=1e-4)  # the checkpoint beside it


LONG = "the cat sat on the football match while shares fell " * 4


def described(folder, **changes):
    """Change what a run says of how it reads documents."""
    run = Run.read(folder)
    replace(run, **changes).write(folder)


@pytest.mark.parametrize("reading", ["as it is", "text after, in chunks", "prompt", "calibrated"])
def test_the_onnx_backend_gives_the_runs_probabilities(tokenizer, checkpoint, tmp_path, monkeypatch, reading):
    run, out = tmp_path / "run", tmp_path / "out"
    multi_label = reading == "calibrated"
    space = LabelSpace(LABELS.names, multi_label=multi_label)
    save_folder(run, checkpoint, "embedding", space)
    if reading == "text after, in chunks":
        described(run, document_suffix=" subject:", truncation=Truncation(12, long_documents="chunks"))
    if reading == "prompt":
        described(run, prompt=Prompt(PromptTemplate("Sort: {labels}.", max_length=90), Verbalizer(space)))
    if multi_label:
        described(run, calibration=Calibration(temperature=[2.0, 0.5, 1.0], thresholds=[0.3, 0.6, 0.5]))
    export(monkeypatch, run, out, "--onnx", "true")
    expected, texts = TextClassifier.from_pretrained(run), [*TEXTS, LONG]
    for path in out.glob("*.safetensors"):
        path.unlink()  # no weights but those of the file are read
    found = TextClassifier.from_pretrained(out, backend="onnx", batch_size=3)
    np.testing.assert_allclose(found.predict_proba(texts), expected.predict_proba(texts), atol=1e-4)
    assert found.predict(texts) == expected.predict(texts)
    assert found.predict_proba([]).shape == (0, 3)
    assert control_tokens(found.scorer) == control_tokens(expected.scorer)  # which the server refuses


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_lines_of_the_documentation(checkpoint, tmp_path, monkeypatch, multi_label):
    """ONNX Runtime without this package, as recipes/SERVING.md has it, also where a tokenizer puts special tokens."""
    if multi_label:
        tokenizer = make_tokenizer("sentencepiece_bpe")
        frame = {"single": "<s> $A <|im_end|>", "special_tokens": [("<s>", 1), ("<|im_end|>", 4)]}
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(**frame)
        checkpoint = tiny.save_checkpoint(tmp_path / "base", "llama", tokenizer)
    save_folder(tmp_path / "run", checkpoint, "embedding", LabelSpace(LABELS.names, multi_label=multi_label))
    calibration = Calibration((2.0, 0.5, 1.0)) if multi_label else Calibration(2.5)
    changes = {"truncation": Truncation(21, "head_tail"), "document_suffix": "\n\nTopic:", "calibration": calibration}
    described(tmp_path / "run", **changes)
    export(monkeypatch, tmp_path / "run", tmp_path / "exported", "--fold_temperature", "true", "--onnx", "true")
    (block,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "recipes" / "SERVING.md").read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    lines: dict = {}
    exec(block, lines)
    texts = [*TEXTS, LONG, "<|im_end|> is text"]
    found = [lines["predict_proba"](text) for text in texts]
    np.testing.assert_allclose(found, TextClassifier.from_pretrained("run").predict_proba(texts), atol=1e-4)


def test_a_file_of_another_run_is_refused(checkpoint, tmp_path, monkeypatch):
    for name, approach, labels in (("run", "embedding", ["a", "b"]), ("other", "instruction", LABELS.names)):
        save_folder(tmp_path / name, checkpoint, approach, LabelSpace(labels))
        export(monkeypatch, tmp_path / name, tmp_path / f"{name}-out", "--onnx", "true")
    save_folder(tmp_path / "three", checkpoint, "embedding")
    for name in ("run", "other"):
        (tmp_path / "three" / "model.onnx").write_bytes((tmp_path / f"{name}-out" / "model.onnx").read_bytes())
        with pytest.raises(ValueError, match=r"no head with 3 labels.*Export the run again"):
            TextClassifier.from_pretrained(tmp_path / "three", backend="onnx")


def test_what_the_onnx_backend_does_not_take(checkpoint, tmp_path, monkeypatch):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    load = TextClassifier.from_pretrained
    with pytest.raises(FileNotFoundError, match=r"no model\.onnx.*hf-causal-clf export .*--onnx true"):
        load(tmp_path / "run", backend="onnx")
    with pytest.raises(ValueError, match=r"backend must be one of \['torch', 'onnx'\], got 'tensorrt'"):
        load(tmp_path / "run", backend="tensorrt")
    with pytest.raises(ValueError, match="leave dtype and device_map out"):
        load(tmp_path / "run", backend="onnx", dtype="bfloat16", device_map="auto")
    save_folder(tmp_path / "answers", checkpoint, "instruction")
    with pytest.raises(ValueError, match=r"for the embedding-based approach and encoders; .* is a"):
        load(tmp_path / "answers", backend="onnx")
    (tmp_path / "run" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ValueError, match="ONNX Runtime cannot open"):
        load(tmp_path / "run", backend="onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="onnxruntime"):
        load(tmp_path / "run", backend="onnx")


def test_instruction_run(tokenizer, tmp_path, monkeypatch):
    source = tiny.save_checkpoint(tmp_path / "base", "qwen3", tokenizer)
    model = save_folder(tmp_path / "run", source, "instruction").eval()
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--onnx", "true")
    logits, inputs = run_onnx(tmp_path / "out")
    for row, text in enumerate(TEXTS):
        ids = torch.from_numpy(inputs["input_ids"][row][inputs["attention_mask"][row] == 1])
        with torch.no_grad():
            expected = model(ids[None]).logits[0].softmax(-1)
        found = torch.from_numpy(logits[row, : len(ids)]).softmax(-1)
        np.testing.assert_allclose(found, expected, atol=1e-4, err_msg=text)


def test_large_weights_go_beside_the_file(checkpoint, tmp_path, monkeypatch):
    """The limit is lowered; the folder is renamed after writing and the file still finds its weights."""
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 1000)
    save_folder(tmp_path / "run", checkpoint, "embedding")
    export(monkeypatch, tmp_path / "run", tmp_path / "out", "--onnx", "true")
    assert (tmp_path / "out" / "model.onnx.data").stat().st_size > 1000
    expected = TextClassifier.from_pretrained(tmp_path / "run", calibrated=False).predict_proba(TEXTS)
    np.testing.assert_allclose(torch.from_numpy(run_onnx(tmp_path / "out")[0]).softmax(-1), expected, atol=1e-4)


def test_refusals_before_a_model_is_loaded(tmp_path, monkeypatch):
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="onnx is written in float32 only, got dtype 'bfloat16'"):
        export(monkeypatch, tmp_path / "none", tmp_path / "out", "--onnx", "true", "--dtype", "bfloat16")
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(SystemExit, match=r"pip install 'hf_causal_clf\[onnx\]'"):
        export(monkeypatch, tmp_path / "none", tmp_path / "out", "--onnx", "true")


def test_a_difference_is_refused_and_nothing_is_left(checkpoint, tmp_path, monkeypatch):
    save_folder(tmp_path / "run", checkpoint, "embedding")
    real = onnx_export.onnx_logits

    def wrong_if_padded(session, ids, mask):
        return real(session, ids, torch.ones_like(mask))

    monkeypatch.setattr(onnx_export, "onnx_logits", wrong_if_padded)
    with pytest.raises(SystemExit, match=r"logits of the model\.onnx differ from the run's .* nothing was written"):
        export(monkeypatch, tmp_path / "run", tmp_path / "out", "--onnx", "true")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_the_exporters_reason_is_named(tokenizer, tmp_path, monkeypatch):
    """Dynamic RoPE computes its frequencies anew when a text is longer than those before, which no graph can hold."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0, "original_max_position_embeddings": 256}
    monkeypatch.setitem(tiny.ARCHITECTURES, "dynamic", (tiny.LlamaConfig, {**tiny._SIZE, "rope_parameters": rope}))
    source = tiny.save_checkpoint(tmp_path / "base", "dynamic", tokenizer)
    save_folder(tmp_path / "run", source, "embedding")
    with pytest.raises(SystemExit, match=r"torch\.onnx cannot export CausalLMFor.*: .*data-dependent.*if seq_len >"):
        export(monkeypatch, tmp_path / "run", tmp_path / "out", "--onnx", "true")
    assert not (tmp_path / "out").exists()


def test_longrope_is_refused(tokenizer, tmp_path, monkeypatch):
    """The graph keeps the frequencies of short texts, which no comparison on short texts shows."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [3.0, 4.0, 5.0, 6.0], "factor": 4.0}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, **factors, "original_max_position_embeddings": 64}
    size = {**tiny._SIZE, "rope_parameters": rope, "original_max_position_embeddings": 64}
    monkeypatch.setitem(tiny.ARCHITECTURES, "longrope", (tiny.Phi3Config, size))
    source = tiny.save_checkpoint(tmp_path / "base", "longrope", tokenizer)
    save_folder(tmp_path / "run", source, "embedding")
    with pytest.raises(SystemExit, match="has LongRoPE"):
        export(monkeypatch, tmp_path / "run", tmp_path / "out", "--onnx", "true")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


def test_the_runtime_reports_to_nobody(tmp_path):
    code = "import time; from hf_causal_clf.sharing.onnx import require_onnx; require_onnx(); time.sleep(15)"
    with HubServer() as server:
        env = {**hub_client.environment(server, tmp_path), "https_proxy": server.url}
        env.pop("ORT_DISABLE_TELEMETRY")
        subprocess.run([sys.executable, "-c", code], env=env, check=True, timeout=120)
        assert server.outside == []
