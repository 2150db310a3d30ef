"""recipes/export.py --onnx true: one file for ONNX Runtime that gives the run's probabilities."""

import subprocess
import sys

import hub_client
import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from hub_server import HubServer
from test_classifier import LABELS, TEXTS, save_folder
from test_export import export
from transformers import AutoTokenizer

from hf_causal_clf import LabelSpace, TextClassifier
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
