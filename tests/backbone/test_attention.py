"""Attention by plain matrix products against torch's fused kernel, and the models that take it."""

from types import SimpleNamespace

import pytest
import tiny
import torch
import torch.nn.functional as F
from transformers.integrations import sdpa_attention

from hf_causal_clf import CausalLMForLastTokenClassification, LabelSpace
from hf_causal_clf.backbone import attention as kernels
from hf_causal_clf.backbone.attention import PLAIN_ATTENTION, plain_attention, take_plain_attention
from hf_causal_clf.backbone.batching import pad

LAYER = SimpleNamespace(is_causal=True, num_key_value_groups=2)


def states(rows, queries, keys, dtype=torch.bfloat16, size=16):
    draw = torch.Generator().manual_seed(0)
    shapes = ((rows, 4, queries, size), (rows, 2, keys, size), (rows, 2, keys, size))
    return [torch.randn(shape, generator=draw).to(dtype).requires_grad_() for shape in shapes]


def some_mask(rows, queries, keys, dtype):
    visible = torch.rand(rows, 1, queries, keys, generator=torch.Generator().manual_seed(1)) < 0.5
    visible[..., 0] = True
    if dtype is torch.bool:
        return visible
    return torch.zeros(visible.shape, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)


def exact(query, key, value, mask, scaling=None):
    """The fused kernel in float32, with keys and values repeated for each head."""
    query, key, value = (tensor.float() for tensor in (query, key, value))
    key, value = (tensor.repeat_interleave(2, dim=1) for tensor in (key, value))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    causal = mask is None and query.shape[2] > 1
    return F.scaled_dot_product_attention(query, key, value, mask, is_causal=causal, scale=scaling).transpose(1, 2)


@pytest.mark.parametrize(
    ("rows", "queries", "keys", "mask"),
    [
        *((*shape, None) for shape in ((3, 9, 9), (2, 1, 7), (1, 40, 40))),  # causal
        *((*shape, kind) for shape in ((3, 9, 9), (2, 1, 7), (3, 5, 11)) for kind in (torch.bool, torch.bfloat16)),
    ],
)
@pytest.mark.parametrize("scaling", [None, 0.1])
def test_plain_attention_is_attention(monkeypatch, mask, rows, queries, keys, scaling):
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", forbidden)
    query, key, value = states(rows, queries, keys)
    mask = mask and some_mask(rows, queries, keys, mask)
    found, weights = plain_attention(LAYER, query, key, value, mask, scaling=scaling, sliding_window=None)
    wanted = exact(query, key, value, mask, scaling)
    assert weights is None
    assert found.shape == wanted.shape == (rows, queries, 4, 16)
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=2e-2)
    upstream = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(2))
    gradients = torch.autograd.grad(found, (query, key, value), upstream.bfloat16())
    for gradient, expected in zip(gradients, torch.autograd.grad(wanted, (query, key, value), upstream), strict=True):
        if expected.norm() > 0:  # a single visible key leaves the query without a gradient
            assert F.cosine_similarity(gradient.float().flatten(), expected.float().flatten(), dim=0) > 0.999


def forbidden(*args, **kwargs):
    raise AssertionError("the fused kernel was called")


def test_rows_in_parts_are_the_same(monkeypatch):
    query, key, value = states(5, 8, 8)
    for mask in (some_mask(5, 8, 8, torch.bool), some_mask(1, 8, 8, torch.bool), None):
        whole, _ = plain_attention(LAYER, query, key, value, mask)
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "_CACHED_WEIGHTS", 4 * 8 * 8 * 2)
            parts, _ = plain_attention(LAYER, query, key, value, mask)
        torch.testing.assert_close(parts, whole, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("kind", ["no mask", "causal", "tree", "padding", "sliding", "any"])
@pytest.mark.parametrize("rows", [1, 3])
def test_masked_keys_at_the_end_are_left_out(monkeypatch, kind, rows):
    seen, queries, keys = (0, 200, 200) if kind == "no mask" else (10, 200, 210)
    causal = torch.ones(queries, keys, dtype=torch.bool).tril(seen)
    mask = causal.expand(rows, 1, -1, -1).clone()
    if kind == "tree":  # the last queries see none but the first keys and themselves
        mask[..., 160:, :] = torch.eye(queries, keys, dtype=torch.bool).roll(seen, 1)[160:]
        mask[..., 160:, :5] = True
    elif kind == "padding":  # on the left, in the first row; it sees itself
        mask[0, :, :, seen : seen + 70] &= torch.eye(queries, keys, dtype=torch.bool).roll(seen, 1)[:, seen : seen + 70]
    elif kind == "sliding":
        mask &= ~torch.ones(queries, keys, dtype=torch.bool).tril(seen - 20)
    elif kind == "any":
        mask = some_mask(rows, queries, keys, torch.bool)
    query, key, value = states(rows, queries, keys)
    wanted = exact(query, key, value, mask).detach()
    counts = []
    attend = kernels._attend
    monkeypatch.setattr(kernels, "_attend", lambda *args: counts.append(args[1].shape[2]) or attend(*args))
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.bfloat16).min).bfloat16()
    for form in [None] if kind == "no mask" else [mask, additive]:
        with torch.no_grad():
            found, _ = plain_attention(LAYER, query, key, value, form)
        torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=2e-2)
    assert (min(counts) < keys) == (kind != "any")
    assert max(counts) == keys


@pytest.mark.parametrize(
    "change",
    [
        {"dtype": torch.float32},
        {"dtype": torch.float16},
        {"dropout": 0.1},
        {"position_bias": torch.zeros(1, 4, 8, 8, dtype=torch.bfloat16)},
        {"limit": 4 * 8 * 8 * 2 - 1},
    ],
)
def test_other_calls_are_left_to_the_fused_kernel(monkeypatch, change):
    calls = []

    def fused(*args, **kwargs):
        calls.append(kwargs)
        return "fused", None

    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", fused)
    monkeypatch.setattr(kernels, "_MAX_WEIGHTS", change.pop("limit", 2**23))
    query, key, value = states(2, 8, 8, change.pop("dtype", torch.bfloat16))
    assert plain_attention(LAYER, query, key, value, None, **change)[0] == "fused"
    assert len(calls) == 1
    assert change.items() <= calls[0].items()


def test_more_rows_fit_where_nothing_is_kept_for_gradients(monkeypatch):
    monkeypatch.setattr(sdpa_attention, "sdpa_attention_forward", forbidden)
    monkeypatch.setattr(kernels, "_MAX_WEIGHTS", 4 * 8 * 8)
    query, key, value = states(2, 8, 8)
    with torch.no_grad():
        plain_attention(LAYER, query, key, value, None)
    with pytest.raises(AssertionError, match="fused"):
        plain_attention(LAYER, query, key, value, None)


@pytest.mark.parametrize("name", [name for name in tiny.ARCHITECTURES if name != "bloom"])
def test_models_give_the_same(name):
    model = tiny.make_causal_lm(name, 64).to(torch.bfloat16).eval()
    batch = pad([list(range(3, 3 + length)) for length in (20, 7, 13)], 2)
    with torch.no_grad():
        fused = model(**batch).logits.float()
        exact_logits = model.float()(**batch).logits
        default = model.config._attn_implementation
        take_plain_attention(model.to(torch.bfloat16))
        plain = model(**batch).logits.float()
    assert model.base_model.config._attn_implementation == (PLAIN_ATTENTION if default == "sdpa" else default)
    real = batch["attention_mask"].bool()
    error = (plain - exact_logits)[real].abs().max()
    assert error <= 2 * (fused - exact_logits)[real].abs().max() + 1e-3


def test_models_that_cannot_take_it_are_left_alone():
    bloom = tiny.make_causal_lm("bloom", 64)
    eager = tiny.make_causal_lm("llama", 64, attn_implementation="eager")
    for model in (bloom, eager):
        take_plain_attention(model)
        assert model.config._attn_implementation == "eager"


def test_head_has_the_same_loss_and_gradients_within_bfloat16(checkpoint):
    ids = pad([list(range(5, 5 + length)) for length in (9, 30, 21)], 2)
    found = {}
    for kind in ("exact", "fused", "plain"):
        torch.manual_seed(0)
        dtype = torch.float32 if kind == "exact" else torch.bfloat16
        labels = LabelSpace(["a", "b"])
        model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=labels, dtype=dtype).train()
        if kind == "plain":
            take_plain_attention(model)
            assert model.config.get_text_config()._attn_implementation == PLAIN_ATTENTION
        loss = model(**ids, labels=torch.tensor([0, 1, 0])).loss
        loss.backward()
        gradient = torch.cat([parameter.grad.float().flatten() for parameter in model.parameters()])
        found[kind] = loss.item(), gradient
    for kind in ("fused", "plain"):  # each rounds in its own way, which depends on the processor
        assert found[kind][0] == pytest.approx(found["exact"][0], rel=5e-2)
        assert F.cosine_similarity(found[kind][1], found["exact"][1], dim=0) > 0.99
    assert F.cosine_similarity(found["plain"][1], found["fused"][1], dim=0) > 0.999


def test_it_is_not_written_into_checkpoints(checkpoint, tmp_path):
    model = CausalLMForLastTokenClassification.from_pretrained(checkpoint, label_space=LabelSpace(["a", "b"]))
    take_plain_attention(model)
    model.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.rglob("*.json") if PLAIN_ATTENTION in path.read_text()]
    again = CausalLMForLastTokenClassification.from_pretrained(tmp_path)
    assert again.config.get_text_config()._attn_implementation == "sdpa"
