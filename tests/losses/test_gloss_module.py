"""The module GLoss: against the function gloss_loss, its state, wrong settings."""

import pytest
import torch
from safetensors.torch import load_model, save_model
from test_gloss_loss import batch
from torch import nn

from gloss.losses import GLoss, choose_labeled, gloss_loss
from gloss.losses.geometry import sqrt_bandwidth


def test_module_equals_the_function():
    x, labels, _ = batch()
    is_labeled = choose_labeled(14, 0.6, torch.Generator().manual_seed(5))
    expected = gloss_loss(x, labels, sigma=0.4, is_labeled=is_labeled, num_classes=3)
    assert GLoss(0.4, 0.6, 3, generator=torch.Generator().manual_seed(5))(x, labels) == expected
    assert GLoss(0.4, 0.6, 3)(x, labels, is_labeled) == expected
    weights = torch.tensor([1.0, 2.0, 0.5])
    settings = {"num_classes": 3, "objective": "softmax", "class_weights": weights}
    expected = gloss_loss(x, labels, sigma=0.4, is_labeled=is_labeled, **settings)
    assert GLoss(0.4, **settings)(x, labels, is_labeled) == expected


def test_module_uses_num_classes_instead_of_the_classes_in_the_batch():
    """With objective=softmax, classes without texts in the batch also contribute to the denominator."""
    x, labels, is_labeled = batch(num_classes=3)
    settings = {"num_classes": 5, "objective": "softmax"}
    expected = gloss_loss(x, labels, sigma=0.4, is_labeled=is_labeled, **settings)
    assert GLoss(0.4, **settings)(x, labels, is_labeled) == expected
    assert expected > gloss_loss(x, labels, sigma=0.4, is_labeled=is_labeled, num_classes=3, objective="softmax") + 0.1


def test_module_without_num_classes_accepts_any_integer_labels():
    x, labels, is_labeled = batch()
    any_integers = torch.tensor([-5, 1000, 7])[labels]
    assert GLoss(0.4)(x, any_integers, is_labeled) == GLoss(0.4, num_classes=3)(x, labels, is_labeled)


def test_module_keeps_the_bandwidth_of_its_first_batch():
    x, labels, is_labeled = batch()
    module = GLoss()
    value = module(x, labels, is_labeled)
    assert value == GLoss(sqrt_bandwidth(x))(x, labels, is_labeled)
    other = batch(seed=1)[0]
    assert sqrt_bandwidth(other) != module.sigma
    assert module(other, labels, is_labeled) == GLoss(sqrt_bandwidth(x))(other, labels, is_labeled)
    resumed = GLoss()
    resumed.load_state_dict(module.state_dict())
    assert resumed.sigma == sqrt_bandwidth(x)


def test_bandwidth_inside_a_model_survives_safetensors_and_casts(tmp_path):
    model = nn.Sequential(nn.Linear(2, 2), GLoss())
    for sigma in (None, 0.3, 1e-3):  # None: before the first batch
        model[1].sigma = sigma
        save_model(model, tmp_path / "model.safetensors")
        resumed = nn.Sequential(nn.Linear(2, 2), GLoss(0.9)).bfloat16()
        load_model(resumed, tmp_path / "model.safetensors")
        assert resumed.half()[1].sigma == sigma


def test_module_refuses_wrong_settings():
    for arguments, message in [
        ({"sigma": "median"}, 'sigma must be a positive number or "sqrt"'),
        ({"sigma": -1.0}, "sigma must be positive"),
        ({"gamma": 1.0}, "gamma must lie in"),
        ({"objective": "mse"}, "objective must be one of"),
        ({"objective": "softmax"}, "num_classes must be given"),
        ({"class_weights": torch.ones(2)}, "num_classes must be given"),
    ]:
        with pytest.raises(ValueError, match=message):
            GLoss(**arguments)
