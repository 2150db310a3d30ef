"""The loss of a student against a naive loop, and which documents teach most."""

import numpy as np
import pytest
import torch

from hf_causal_clf.distillation.loss import SoftLabelLoss, softened
from hf_causal_clf.distillation.selecting import most_teaching

LABELS = 3


def random_case(multi_label, documents=6):
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(documents, LABELS)) * 2
    taught = generator.dirichlet(np.ones(LABELS), size=documents)
    gold = generator.integers(0, 2, (documents, LABELS)) if multi_label else generator.integers(0, LABELS, documents)
    return logits, taught, gold


def naive(logits, taught, gold, gold_weight, temperature, multi_label):
    """The loss of one document, as the papers write it."""

    def cross_entropy(logits, target):
        if multi_label:
            p = 1 / (1 + np.exp(-logits))
            return np.mean([-t * np.log(q) - (1 - t) * np.log(1 - q) for t, q in zip(target, p)])
        p = np.exp(logits) / np.exp(logits).sum()
        return -sum(t * np.log(q) for t, q in zip(target, p))

    if multi_label:
        odds = taught / (1 - taught)
        soft = odds ** (1 / temperature) / (1 + odds ** (1 / temperature))
    else:
        soft = taught ** (1 / temperature) / (taught ** (1 / temperature)).sum()
    teacher = temperature**2 * cross_entropy(logits / temperature, soft)
    if gold is None:
        return teacher
    hot = gold if multi_label else np.eye(LABELS)[gold]
    return gold_weight * cross_entropy(logits, hot) + (1 - gold_weight) * teacher


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("gold_weight", "temperature"), [(0.3, 1.0), (0.3, 2.5), (0.0, 2.0), (1.0, 3.0)])
def test_the_loss_is_that_of_a_loop_over_documents(multi_label, gold_weight, temperature):
    """Four documents have a gold label, two have none; as one batch, and as two that are accumulated."""
    logits, taught, gold = random_case(multi_label)
    loss = SoftLabelLoss(gold_weight, temperature, multi_label)
    targets = torch.from_numpy(np.concatenate([loss.targets(taught[:4], gold[:4]), loss.targets(taught[4:])]))
    labels = [*gold[:4], None, None]
    rows = zip(logits, taught, labels)
    expected = np.mean([naive(*row, gold_weight, temperature, multi_label) for row in rows])
    given = torch.from_numpy(logits).float().requires_grad_()
    found = loss({"logits": given}, targets)
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()
    assert given.grad.isfinite().all()
    parts = [loss({"logits": given[rows]}, targets[rows], targets.numel()) for rows in (slice(0, 1), slice(1, 6))]
    assert sum(parts).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("multi_label", [False, True])
def test_gold_weight_1_is_the_plain_loss(multi_label):
    """That of the gold labels, which evaluations have too, whatever the temperature."""
    logits, taught, gold = random_case(multi_label)
    loss = SoftLabelLoss(1.0, 4.0, multi_label)
    outputs = {"logits": torch.from_numpy(logits).float()}
    plain = loss(outputs, torch.from_numpy(gold))
    assert loss(outputs, torch.from_numpy(loss.targets(taught, gold))).item() == pytest.approx(plain.item(), rel=1e-6)


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("temperature", [0.001, 1.0, 1000.0])
def test_probabilities_of_0_and_1_are_softened_to_numbers(multi_label, temperature):
    certain = np.array([[1.0, 0.0, 0.0], [0.2, 0.5, 0.3]], dtype=np.float32)
    found = softened(certain, temperature, multi_label=multi_label)
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1
    if temperature == 1.0:
        np.testing.assert_allclose(found, certain, atol=1e-7)


@pytest.mark.parametrize("multi_label", [False, True])
def test_documents_teach_of_which_the_teacher_is_sure_and_the_student_is_not(multi_label):
    sure, unsure = [0.98, 0.01, 0.01], [0.4, 0.35, 0.3]
    teacher, student = np.array([sure, sure, unsure, unsure]), np.array([sure, unsure, sure, unsure])
    assert most_teaching(teacher, student, 1, multi_label=multi_label).tolist() == [1]
    assert most_teaching(teacher, student, 9, multi_label=multi_label).tolist() == [0, 1, 2, 3]
