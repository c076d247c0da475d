"""Our linear head inside the stock sequence-classification model of an architecture.

From the first token's embedding e [D] a stock head computes V f(U e + u) + v with an activation f; ours is W e + b.
With z = W e [C], U holds multiples of W and V multiples of the identity, so that f cancels:

- f(z) − f(−z) = z for ReLU, GELU and SiLU, exactly;
- (8 f(εz) − f(2εz)) / 6ε = z − O(ε⁴z⁵) for tanh: below float32's rounding where |εz| ≤ 1/32;
- f(sz)/2s − f(−sz)/2s = z for the identity, also behind a LayerNorm (ModernBERT): its input has mean 0, and two entries
  ± A far above sz keep its deviation at A √(2/D).
"""

from __future__ import annotations

import copy
import math

import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

from gloss.models.encoder import Classifier

_ANCHOR = 2.0**14  # A: sz is at most 4, and half precision holds up to 65,504
_SETTINGS: dict[str, dict[str, str | bool]] = {  # of config.json, where an architecture has a choice of heads
    "modernbert": {"classifier_pooling": "cls", "classifier_activation": "linear", "classifier_bias": True},
    "eurobert": {"classifier_pooling": "bos"},
}


@torch.no_grad()
def stock_classifier(model: Classifier, labels: list[str]) -> tuple[transformers.PreTrainedModel, bool]:
    """The transformer in a model that other programs load, on the CPU, and whether its own head gives our logits.

    model: in float32; labels: names of the C classes. Where the architecture's head cannot carry ours (it reads another
    token, or 2C > D), its last weight is left empty, so that loading it fails; an architecture without such a head is
    returned as it is.
    """
    transformer, weight, bias = model.encoder.transformer, model.head.weight.cpu(), model.head.bias.cpu()
    config = copy.deepcopy(transformer.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: i for i, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        alone = copy.copy(transformer)
        alone.config = config
        return alone, False
    for key, value in _SETTINGS.get(config.model_type, {}).items():
        setattr(config, key, value)
    stock = transformers.AutoModelForSequenceClassification.from_config(config).float().eval()
    state = {f"{stock.base_model_prefix}.{key}": value for key, value in transformer.state_dict().items()}
    stock.load_state_dict(state, strict=False)
    missing = stock.state_dict().keys() - state.keys()
    head = [module for name, module in stock.named_modules() if f"{name}.weight" in missing]
    for parameter in (parameter for module in head for parameter in module.parameters()):
        parameter.zero_()
    last = [module for module in head if isinstance(module, nn.Linear)][-1]
    ids = torch.randint(getattr(config, "vocab_size", 100), (4, 8), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "attention_mask": (torch.arange(8) < torch.tensor([[8], [8], [5], [3]])).long()}
    embeddings = stock.base_model(**inputs).last_hidden_state[:, 0]  # [4, D]
    logits, bound = embeddings @ weight.T + bias, weight.norm(dim=1).max() * embeddings.norm(dim=1).max()  # of |z|
    e, s = 1 / (32 * bound), 4 / bound
    if type(stock.base_model) is type(transformer):
        for multiples in ((1, -1, 1, -1), (e, 2 * e, 8 / (6 * e), -1 / (6 * e)), (s, -s, 0.5 / s, -0.5 / s)):
            if _fill(head, weight, bias, *multiples):
                if torch.allclose(stock(**inputs).logits, logits, rtol=1e-5, atol=1e-5):
                    return stock, True
    last.weight = nn.Parameter(torch.empty(0))
    return stock, False


def _fill(head: list[nn.Module], weight: Tensor, bias: Tensor, u0: float, u1: float, v0: float, v1: float) -> bool:
    """Set a stock head to U = (u0 W, u1 W) and V = (v0 I, v1 I); False where it has no room for that."""
    *dense, last = [module for module in head if isinstance(module, nn.Linear)]
    norms = [module for module in head if isinstance(module, nn.LayerNorm)]
    last.bias.copy_(bias)
    if not dense:  # the head is linear as ours is
        last.weight.copy_(weight)
        return True
    inner, (num_classes, width) = dense[-1], weight.shape
    if inner.weight.shape != (width, width) or 2 * num_classes + 2 * len(norms) > width:
        return False
    inner.weight[: 2 * num_classes] = torch.cat([u0 * weight, u1 * weight])
    one = torch.eye(num_classes)
    last.weight[:, : 2 * num_classes] = torch.cat([v0 * one, v1 * one], dim=1)
    for norm in norms:
        inner.bias[-2:] = torch.tensor([_ANCHOR, -_ANCHOR])
        norm.weight.fill_(_ANCHOR * math.sqrt(2 / width))
    return True
