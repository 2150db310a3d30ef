"""What vLLM (0.32) takes of a run as it was saved: keys of `adapter_config.json`, names and shapes of its weights.

`tests/serving/test_vllm.py` asks a real vLLM. This says fast when a new PEFT, TRL or setting of ours would end that.
"""

import json
import re

import pytest
from peft import get_peft_model
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace
from hf_causal_clf.backbone.settings import peft_config
from hf_causal_clf.embedding.arguments import EmbeddingModelArguments
from hf_causal_clf.instruction.arguments import InstructionModelArguments

WEIGHTS = re.compile(r"base_model\.model\.model\.layers\.\d+\.(self_attn|mlp)\.[a-z]+_proj\.lora_[AB]\.weight")
SETTINGS = {}, {"lora_layers": 1.0}, {"lora_r": 16, "lora_alpha": 8, "use_rslora": True}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("approach", ["embedding", "instruction"])
def test_a_saved_adapter(checkpoint, tmp_path, approach, settings):
    if approach == "embedding":
        arguments = EmbeddingModelArguments(model_name_or_path=checkpoint, **settings)
        model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=LabelSpace(["a", "b", "c"]))
    else:
        arguments = InstructionModelArguments(model_name_or_path=checkpoint, **settings)
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
    get_peft_model(model, peft_config(arguments, model, arguments.lora_layers)).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert config["bias"] == "none"
    assert not config["use_dora"]
    assert config["init_lora_weights"] in (True, "gaussian", "eva", "orthogonal")
    for name in ("lora_bias", "alora_invocation_tokens", "layer_replication", "use_bdlora", "use_qalora"):
        assert not config.get(name), name
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if approach == "embedding":
        assert set(config["modules_to_save"]) <= {"classifier", "score"}
        assert "score" in config["modules_to_save"]
        assert shapes.pop("base_model.model.score.weight") == (3, model.get_input_embeddings().embedding_dim)
    else:
        assert not config["modules_to_save"]
    assert shapes
    assert [name for name in shapes if not WEIGHTS.fullmatch(name)] == []
