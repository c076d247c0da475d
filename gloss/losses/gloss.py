"""G-Loss: how well the labels of some texts of a batch, spread over its graph, predict the labels of the others.

Weights and rates in float64 (`linear_rates`, `log_absorption`). For kernels so narrow that weights would leave float64:
in log space, kernel and normalisations as logsumexp (`log_transition_rates`, `log_propagate`). Either way the closed
form of the propagation is an elimination that never subtracts, so that no bandwidth, scale or cluster structure makes a
value or gradient infinite. Where ordinary arithmetic suffices, the result equals the formulas in
`gloss.losses.geometry` and `gloss.losses.reference`.
"""

import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from gloss.losses.checks import check_batch, outside_autocast
from gloss.losses.geometry import SMALLEST_SIGMA, pairwise_distances, sqrt_bandwidth, to_working_precision, unit_length
from gloss.losses.state_elimination import eliminate, log_absorption

NO_EDGE = -1e30  # log of a rate that is 0: finite, so inf − inf never arises, and far below any −2/σ²
NARROW = 0.06  # σ below which weights between unit vectors, e^(−2/σ²) at least (here 1e-241), may leave float64
OBJECTIVES = ("nll", "softmax")


def choose_labeled(
    batch_size: int, gamma: float, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Tensor:
    """is_labeled: bool [B], a random ⌈γB⌉ of the batch True, at least 1 and at most B − 1.

    Args:
        batch_size: B >= 2.
        gamma: γ in (0, 1), the fraction that stays labeled.
        generator: draws on its own device, so that one on the CPU gives every device the same mask (None: torch's).
        device: of the result.

    Raises ValueError for values outside these ranges.
    """
    if batch_size < 2:
        raise ValueError(f"a batch needs 2 texts to have one labeled and one unlabeled, got batch_size {batch_size}")
    if not isinstance(gamma, Real) or not 0 < gamma < 1:
        raise ValueError(f"gamma must be a number in (0, 1), got {gamma!r}")
    num_labeled = min(math.ceil(round(gamma * batch_size, 9)), batch_size - 1)  # 0.7 · 10 is 7, not 7.000000000000001
    source = torch.default_generator if generator is None else generator
    chosen = torch.randperm(batch_size, generator=source, device=source.device)[:num_labeled]
    is_labeled = chosen.new_zeros(batch_size, dtype=torch.bool).index_fill_(0, chosen, True)
    return is_labeled.to(device, non_blocking=True)


def choose_among_known(is_known: Tensor, gamma: float, generator: torch.Generator | None = None) -> Tensor:
    """`choose_labeled` among the texts that have a label: is_labeled, bool [B], where is_known, bool [B], is True."""
    if (num_known := int(is_known.sum())) < 2:
        raise ValueError(f"a batch needs 2 texts with a label, one stays labeled and one is scored; got {num_known}")
    drawn = choose_labeled(num_known, gamma, generator, is_known.device)
    return torch.zeros_like(is_known).masked_scatter(is_known, drawn)


def is_scored(labels: Tensor, is_labeled: Tensor, num_classes: int) -> Tensor:
    """bool [B]: True where a text is unlabeled and its class has a labeled member, so that Eq. 1 can score it.

    Args:
        labels: int [B] in [0, C), or -1 where the class is not known.
        is_labeled: bool [B] on any device, False where the class is not known.
        num_classes: C.

    The host does not wait for the device.
    """
    is_labeled = is_labeled.to(labels.device, non_blocking=True)
    known = labels.long().clamp(min=0)
    num_labeled_of = torch.zeros(num_classes, dtype=torch.long, device=labels.device)
    num_labeled_of = num_labeled_of.scatter_add(0, known, is_labeled.long())
    return ~is_labeled & (labels >= 0) & (num_labeled_of > 0)[known]


def log_kernel(embeddings: Tensor, sigma: float) -> Tensor:
    """log W_ij [B, B] = −‖z_i − z_j‖² / 2σ² of the embeddings [B, D] at unit length; the diagonal is NO_EDGE."""
    distances = pairwise_distances(unit_length(embeddings))
    is_self = torch.eye(len(distances), dtype=torch.bool, device=distances.device)
    return -(distances / (sigma * math.sqrt(2))).square().masked_fill(is_self, -NO_EDGE)


def log_transition_rates(embeddings: Tensor, sigma: float) -> Tensor:
    """log T_ij up to a constant per row [B, B]; the diagonal is NO_EDGE. Propagation needs no more than these ratios.

    embeddings: float [B, D], B >= 2; sigma: σ > 0.

    With q_j = Σ_k W_kj D_k^(−1/2), the column sums of S are q_j D_j^(−1/2); dividing by them and normalising the rows
    leaves T_ij = (W_ij / q_j) / Σ_k (W_ik / q_k).
    """
    log_weights = log_kernel(embeddings, sigma)
    log_degree = log_weights.logsumexp(dim=1)
    return log_weights - (log_weights - log_degree / 2).logsumexp(dim=1)  # W is symmetric: q_j is a row sum, too


def log_propagate(log_rates: Tensor, labels: Tensor, num_labeled: int, num_classes: int) -> Tensor:
    """log F_U [U, C] from log rates [B, B] and labels [B] whose first `num_labeled` nodes are the labeled ones.

    The closed form F_U = (I − T_UU)⁻¹ T_UL Y_L by state elimination. A class without a labeled
    member gets about NO_EDGE: probability 0.
    """
    unlabeled = log_rates[num_labeled:]
    to_labeled, to_unlabeled = unlabeled.split([num_labeled, len(unlabeled)], dim=1)
    column = labels[:num_labeled].expand_as(to_labeled)
    peak = to_labeled.new_full((len(unlabeled), num_classes), NO_EDGE)
    peak = peak.scatter_reduce(1, column, to_labeled.detach(), "amax")
    total = torch.zeros_like(peak).scatter_add(1, column, (to_labeled - peak.gather(1, column)).exp())
    to_class = peak + total.clamp(min=1.0).log()  # logsumexp per class; a labeled class has total >= 1
    rates = torch.cat([to_class, to_unlabeled], dim=1)  # [U, C + U]
    return eliminate(rates, num_classes).log_softmax(dim=1)


class _LinearRates(torch.autograd.Function):
    """Rates [U, C + U] of the unlabeled nodes to the classes and to each other, W_ij / q_j summed by class, in float64.

    |z_i|² + |z_j|² − 2 z_i · z_j is d² within 1e-15, so log W_ij is wrong by 5e-16 / σ² at most. The gradient by z_i is
    Σ_j h_ij z_j, h the gradient by log W, made symmetric, over σ²: its part along z_i does not reach x_i.
    """

    @staticmethod
    def forward(ctx, x: Tensor, is_class: Tensor, sigma: float) -> Tensor:
        wide = x.to(is_class.device).to(is_class.dtype)  # in two steps: Apple's GPUs cannot cast to float64
        size = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        size = size.masked_fill_(size < 1e-30, torch.inf)  # as `unit_length`: such vectors count as zero
        y = wide / (size * sigma)
        weights = y @ y.T
        half = weights.diagonal() / 2
        weights.sub_(half).sub_(half[:, None]).exp_().fill_diagonal_(0.0)
        degree = weights.sum(dim=1)
        root = degree.rsqrt()
        q = weights @ root
        ctx.save_for_backward(x, y, size, is_class, weights, degree, root, q)
        ctx.sigma = sigma
        num_labeled, num_classes = is_class.shape
        rates = weights[num_labeled:] / q
        return torch.cat([rates[:, :num_labeled] @ is_class, rates[:, num_labeled:]], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        x, y, size, is_class, weights, degree, root, q = ctx.saved_tensors
        num_labeled, num_classes = is_class.shape
        by_rate = torch.cat([grad[:, :num_classes] @ is_class.T, grad[:, num_classes:]], dim=1)
        direct = by_rate.mul_(weights[num_labeled:]).div_(q)
        by_q = direct.sum(dim=0).neg_().div_(q)
        by_degree = (weights @ by_q).mul_(root).div_(degree).mul_(-0.5)
        one = torch.ones_like(root)
        # Two vectors' product may overflow on the diagonal alone, as W_ij keeps it in bounds elsewhere.
        h = torch.stack([by_q, root, by_degree, one], dim=1) @ torch.stack([root, by_q, one, by_degree])
        h = h.mul_(weights).fill_diagonal_(0.0)
        h[num_labeled:] += direct
        h[:, num_labeled:] += direct.T
        by_y = h @ y
        by_y.addcmul_(y, (by_y * y).sum(dim=1, keepdim=True), value=-(ctx.sigma**2))
        return by_y.div_(size * ctx.sigma).to(x), None, None


def linear_rates(embeddings: Tensor, labels: Tensor, sigma: float, num_labeled: int, num_classes: int) -> Tensor:
    """Rates [U, C + U] of the unlabeled nodes to classes and unlabeled nodes, float64, each row up to a factor.

    embeddings: float [B, D], labels: int64 [B], the first `num_labeled` of them labeled; sigma: σ >= NARROW.
    """
    device = "cpu" if embeddings.is_mps else embeddings.device  # Apple's GPUs have no float64
    is_class = (labels[:num_labeled, None].to(device) == torch.arange(num_classes, device=device)).double()
    return _LinearRates.apply(embeddings, is_class, sigma)


def log_class_probabilities(
    embeddings: Tensor, labels: Tensor, sigma: float, num_labeled: int, num_classes: int,
    lap: Callable[[str], None] = lambda part: None,
) -> Tensor:  # fmt: skip
    """log F_U [U, C] of the unlabeled nodes; a class without a labeled node gets about NO_EDGE.

    embeddings: float [B, D], labels: int64 [B], the first `num_labeled` of them labeled; lap is called with "graph"
    once the rates are known.
    """
    if sigma < NARROW:
        log_rates = log_transition_rates(embeddings, sigma)
        lap("graph")
        return log_propagate(log_rates, labels, num_labeled, num_classes)
    rates = linear_rates(embeddings, labels, sigma, num_labeled, num_classes)
    lap("graph")
    return log_absorption(rates, num_classes, to_working_precision(embeddings).dtype).to(embeddings.device)


@outside_autocast
def propagation_loss(
    embeddings: Tensor, labels: Tensor, is_labeled: Tensor, lap: Callable[[str], None], *, sigma: float,
    num_classes: int, objective: str, class_weights: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`gloss_loss`, and the mask of the unlabeled nodes that it scored, bool [U]; lap is called with "graph" and
    "propagation" after each of these parts, to time them."""
    check_batch(embeddings, labels, may_be_unknown=True)
    _check_settings(sigma, objective, num_classes, class_weights)
    _check_split(labels, is_labeled, num_classes)
    labeled, unlabeled = is_labeled.nonzero()[:, 0], (~is_labeled).nonzero()[:, 0]
    if not len(labeled) or not len(unlabeled):
        raise ValueError(f"is_labeled must have a True and a False, got {len(labeled)} True of {len(labels)}")
    order = torch.cat([labeled, unlabeled]).to(embeddings.device, non_blocking=True)
    ordered_labels = labels.long().clamp(min=0)[order]  # the value for an unknown class is never read
    embeddings = embeddings.index_select(0, order)
    num_labeled = len(labeled)
    log_prob = log_class_probabilities(embeddings, ordered_labels, sigma, num_labeled, num_classes, lap)
    target = ordered_labels[num_labeled:]
    can_score = is_scored(labels, is_labeled, num_classes) if objective == "nll" else labels >= 0
    can_score = can_score[order[num_labeled:]]
    weight = None if class_weights is None else class_weights.to(log_prob)
    total = can_score.sum() if weight is None else (weight[target] * can_score).sum()
    if objective == "softmax":
        log_prob = log_prob.exp().log_softmax(dim=1)
    loss = F.nll_loss(log_prob, target.masked_fill(~can_score, -1), weight, ignore_index=-1, reduction="sum")
    loss = loss / total.to(loss).clamp(min=torch.finfo(loss.dtype).tiny)
    lap("propagation")
    return loss, can_score


def gloss_loss(
    embeddings: Tensor,
    labels: Tensor,
    *,
    sigma: float,
    is_labeled: Tensor,
    num_classes: int,
    objective: str = "nll",
    class_weights: Tensor | None = None,
) -> Tensor:
    """G-Loss, mean over unlabeled nodes.

    "nll" is Eq. 1, the negative log of the propagated probability of each unlabeled node's class; those whose class has
    no labeled member (probability 0 whatever the embedding, see `is_scored`) are left out of the mean. "softmax" is
    the released code: cross-entropy with the propagated probabilities as logits, over all unlabeled nodes. A
    node with label -1, whose class is not known, is propagated through and never scored.

    Args:
        embeddings: float [B, D], B >= 2, any scale (their directions count).
        labels: int [B] in [0, C), or -1; checked on the CPU.
        sigma: σ > 0, the width of the kernel between unit vectors, whose distances are 0 to 2.
        is_labeled: bool [B] with at least one True and one False, False where the label is -1. With a mask on the CPU,
            as `choose_labeled` makes it, no step waits for a GPU to count it.
        num_classes: C >= 1.
        objective: "nll" or "softmax".
        class_weights: float [C], positive, for a weighted mean Σ w_y · loss / Σ w_y; None: all alike.

    Returns a scalar; 0, still connected to the encoder, where no unlabeled node can be scored. The graph is computed in
    float64 for σ >= 0.06, else in float32 or the wider type of the embeddings. Raises ValueError for anything else.
    """
    settings = {"sigma": sigma, "num_classes": num_classes, "objective": objective, "class_weights": class_weights}
    return propagation_loss(embeddings, labels, is_labeled, lambda part: None, **settings)[0]


def _check_settings(sigma: float | str, objective: str, num_classes: int | None, class_weights: Tensor | None) -> None:
    if not isinstance(sigma, Real) or not SMALLEST_SIGMA <= sigma < math.inf:
        raise ValueError(f"sigma must be a finite number of at least {SMALLEST_SIGMA}, got {sigma!r}")
    if num_classes is not None and not (isinstance(num_classes, Integral) and num_classes >= 1):
        raise ValueError(f"num_classes must be a whole number of at least 1, got {num_classes}")
    if objective not in OBJECTIVES:
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {objective!r}")
    is_tensor = isinstance(class_weights, Tensor)
    if class_weights is not None and not (is_tensor and class_weights.shape == (num_classes,)):
        found = class_weights.shape if is_tensor else type(class_weights).__name__
        raise ValueError(f"class_weights must be a tensor [C] with C = num_classes = {num_classes}, got {found}")
    if class_weights is not None and class_weights.device.type == "cpu" and not (class_weights > 0).all():
        raise ValueError(f"class_weights must be positive, got {class_weights.tolist()}")


def _check_split(labels: Tensor, is_labeled: Tensor, num_classes: int) -> None:
    """The values are looked up on the CPU alone, since a GPU would have to wait."""
    is_tensor = isinstance(is_labeled, Tensor)
    if not (is_tensor and is_labeled.shape == labels.shape and is_labeled.dtype == torch.bool):
        found = f"{is_labeled.dtype} {list(is_labeled.shape)}" if is_tensor else type(is_labeled).__name__
        raise ValueError(f"is_labeled must be a tensor, bool [{len(labels)}], got {found}")
    if labels.device.type == "cpu":
        low, high = map(int, labels.aminmax())
        if low < -1 or high >= num_classes:
            raise ValueError(f"labels must lie in [0, {num_classes}), or be -1 if not known, got {low} to {high}")
        if low < 0 and is_labeled.device.type == "cpu" and (is_labeled & (labels < 0)).any():
            raise ValueError("is_labeled must be False where the label is -1: its class is not known")


def nan_if_unknown(loss: Tensor, labels: Tensor, is_labeled: Tensor) -> Tensor:
    """`loss`, or NaN where a node with label -1 is among the labeled ones: a sign that needs no wait for a GPU. The
    gradient is then NaN, too."""
    is_wrong = (is_labeled.to(labels.device, non_blocking=True) & (labels < 0)).any()
    return loss * torch.where(is_wrong, math.nan, 1.0).to(loss)


class GLoss(nn.Module):
    """`gloss_loss` with its settings: forward(embeddings [B, D], labels [B]) -> scalar.

    Args:
        sigma: σ >= 1e-6, or "sqrt": `sqrt_bandwidth` of the first batch, kept from then on and in the state dict (for
            the paper's G-Loss-SQRT compute it beforehand from pretrained embeddings of the training texts).
        gamma: γ in (0, 1), the fraction that stays labeled.
        num_classes: C; None takes the classes of each batch, any integers but -1, at the cost of a wait for the GPU.
        objective: "nll" or "softmax", as in `gloss_loss`.
        class_weights: float [C], positive, or None, as in `gloss_loss`.
        generator: of the random split, on the CPU (None: torch's default one).
    """

    class_weights: Tensor | None

    def __init__(
        self,
        sigma: float | str = "sqrt",
        gamma: float = 0.6,
        num_classes: int | None = None,
        objective: str = "nll",
        class_weights: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if num_classes is None and (objective == "softmax" or class_weights is not None):
            raise ValueError("num_classes must be given for objective='softmax' and for class_weights: both need it")
        _check_settings(1.0 if sigma == "sqrt" else sigma, objective, num_classes, class_weights)
        choose_labeled(2, gamma, torch.Generator())  # checks γ, and leaves torch's own generator as it is
        self.sigma = None if sigma == "sqrt" else float(sigma)
        self.gamma, self.num_classes, self.objective, self.generator = gamma, num_classes, objective, generator
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, embeddings: Tensor, labels: Tensor, is_labeled: Tensor | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            embeddings: float [B, D], B >= 2.
            labels: int [B], -1 where the class is not known.
            is_labeled: bool [B], False where the label is -1; None: drawn by `choose_labeled` among the others, at
                least 2. With labels on a GPU and `num_classes`, nothing waits to look for -1: the loss is NaN if one
                was drawn.
        """
        check_batch(embeddings, labels, may_be_unknown=True)
        if self.sigma is None:
            self.sigma = sqrt_bandwidth(embeddings)
        num_classes, labels = self.num_classes, labels.long()
        can_look, is_drawn = num_classes is None or labels.device.type == "cpu", is_labeled is None
        if is_labeled is None and can_look:
            is_labeled = choose_among_known((labels != -1).cpu(), self.gamma, self.generator)
        elif is_labeled is None:
            is_labeled = choose_labeled(len(labels), self.gamma, self.generator)
        if num_classes is None:
            classes = labels[labels != -1].unique()
            labels = torch.where(labels == -1, -1, torch.searchsorted(classes, labels))
            num_classes = max(1, len(classes))
        settings: dict[str, Any] = {"objective": self.objective, "class_weights": self.class_weights}
        loss = gloss_loss(
            embeddings, labels, sigma=self.sigma, is_labeled=is_labeled, num_classes=num_classes, **settings
        )
        return nan_if_unknown(loss, labels, is_labeled) if is_drawn and not can_look else loss

    def extra_repr(self) -> str:
        sigma = "sqrt" if self.sigma is None else self.sigma
        shown = f"sigma={sigma!r}, gamma={self.gamma}, num_classes={self.num_classes}, objective={self.objective!r}"
        return shown if self.class_weights is None else f"{shown}, class_weights={self.class_weights.tolist()}"

    def get_extra_state(self) -> Tensor:
        """σ as a float64 scalar, NaN until known; a tensor, since safetensors keep nothing else; no cast rounds it."""
        return torch.tensor(math.nan if self.sigma is None else self.sigma, dtype=torch.float64)

    def set_extra_state(self, state: Tensor) -> None:
        self.sigma = None if state.isnan() else state.item()
