"""The loss of next tokens, without ever holding the logits of a batch.

Logits are by far the largest thing that a step makes: 16,384 tokens of a vocabulary of 151,936
are 10 GB in 32 bits, and as much again for their gradient. Here the head and the cross entropy
are one function that works through the trained tokens in chunks and keeps the gradients of its
inputs, which are small, instead of the logits, which are not. Tokens without loss never reach
the head. The idea is that of Liger's fused linear cross entropy (arXiv:2410.10989) and of
Wijmans et al., Cut Your Losses (arXiv:2411.09009); here it is plain torch, on any device.
"""

import functools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = {"cpu": 2**26, "cuda": 2**29}  # of logits in 32 bits that exist at once


class HeadLoss(torch.autograd.Function):
    """Sum over tokens of weight x cross entropy, and how many were guessed right.

    hidden (tokens, width), head (vocabulary, width), labels (tokens) int64, weights (tokens).
    With p = softmax(hidden head^T), the gradient of the logits is weight x (p - onehot(label)),
    known as soon as the logits are: so it is used at once, and `backward` only scales.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, bias: Tensor | None, labels: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        kind = hidden.device.type
        half = torch.is_autocast_enabled(kind)
        dtype = torch.get_autocast_dtype(kind) if half else hidden.dtype
        with torch.autocast(kind, enabled=False):
            matrix, added = head.to(dtype), None if bias is None else bias.to(dtype)
            learns = [
                needed and ctx.needs_input_grad[i]
                for i, needed in enumerate((1, 1, bias is not None))
            ]
            into_hidden = torch.empty_like(hidden) if learns[0] else None
            into_head = torch.zeros_like(head) if learns[1] else None
            into_bias = torch.zeros_like(bias) if learns[2] and bias is not None else None
            loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
            right = torch.zeros((), dtype=torch.int64, device=hidden.device)
            many = max(1, CHUNK_BYTES.get(kind, 2**28) // (4 * head.shape[0]))
            for start in range(0, len(hidden), many):
                part = slice(start, start + many)
                tokens, wanted, weight = (
                    hidden[part].to(dtype),
                    labels[part, None],
                    weights[part, None],
                )
                logits = linear(tokens, matrix, added).float()
                top, guess = logits.max(-1, keepdim=True)
                right += (guess == wanted).sum()
                chosen = logits.gather(-1, wanted) - top
                logits.sub_(top).exp_()
                total = logits.sum(-1, keepdim=True)
                loss += (weight * (total.log() - chosen)).sum()
                logits.mul_(weight / total)  # weight x p
                logits.scatter_add_(-1, wanted, -weight)
                slope = logits.to(dtype)
                if into_hidden is not None:
                    into_hidden[part] = (slope @ matrix).to(hidden.dtype)
                if into_head is not None:
                    into_head.addmm_(slope.T.to(head.dtype), tokens.to(head.dtype))
                if into_bias is not None:
                    into_bias += slope.sum(0).to(into_bias.dtype)
        ctx.save_for_backward(into_hidden, into_head, into_bias)
        ctx.mark_non_differentiable(right)
        return loss, right

    @staticmethod
    def backward(ctx: Any, slope: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if one is None else one * slope.to(one.dtype) for one in ctx.saved_tensors]
        return (*found, None, None)


def score(
    head: nn.Module, hidden: Tensor, labels: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor]:
    """(summed loss, tokens guessed right) of the tokens whose states are `hidden`."""
    if type(head) is nn.Linear:
        found: tuple[Tensor, Tensor] = HeadLoss.apply(
            hidden, head.weight, head.bias, labels, weights
        )
        return found

    def of(states: Tensor, wanted: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(states).float()
        losses = cross_entropy(logits, wanted, reduction="none")
        return (losses * weight).sum(), (logits.argmax(-1) == wanted).sum()

    # A head that something is laid over (an adapter): in chunks all the same, computed twice.
    sums = []
    many = max(1, CHUNK_BYTES.get(hidden.device.type, 2**28) // (4 * 150_000))
    for start in range(0, max(1, len(hidden)), many):
        part = slice(start, start + many)
        chunk = hidden[part], labels[part], weights[part]
        sums.append(
            checkpoint(of, *chunk, use_reentrant=False) if torch.is_grad_enabled() else of(*chunk)
        )
    losses, rights = zip(*sums, strict=True)
    return torch.stack(losses).sum(), torch.stack(rights).sum()


def install(causal: Any) -> bool:
    """Teach a *ForCausalLM to answer `model(ids, wanted=…, labels=…, weights=…)` with the loss.

    `wanted` (tokens) are places in the flattened batch. Through the model's own forward, so that
    whatever is wrapped around it (PEFT, DDP, FSDP) sees an ordinary call. False, and nothing is
    changed, for a model that makes its logits of more than body and head: some scale or cap them.
    """
    body, head = causal.base_model, causal.get_output_embeddings()
    if head is None or body is causal or not plain(causal, body, head):
        return False
    forward = causal.forward

    @functools.wraps(forward)
    def scoring(*arguments: Any, **named: Any) -> Any:
        if "wanted" not in named:
            return forward(*arguments, **named)
        wanted, labels, weights = (named.pop(name) for name in ("wanted", "labels", "weights"))
        for unused in ("attention_mask", "inputs_embeds"):
            if named.get(unused, 0) is None:
                named.pop(unused)
        for unused in (
            "output_attentions",
            "output_hidden_states",
            "return_dict",
            "logits_to_keep",
        ):
            named.pop(unused, None)
        hidden = body(*arguments, **named).last_hidden_state
        return score(head, hidden.flatten(0, 1)[wanted], labels, weights)

    causal.forward = scoring
    return True


@torch.no_grad()
def plain(causal: Any, body: Any, head: Any) -> bool:
    """Whether the model's logits are head(body(ids)), tried on two tokens."""
    device = next(causal.parameters()).device
    ids = torch.tensor([[0, 1]], device=device)
    was = causal.training
    causal.eval()
    try:
        logits = causal(input_ids=ids, use_cache=False).logits
        same = head(body(input_ids=ids, use_cache=False).last_hidden_state)
        return bool(
            logits.shape == same.shape and torch.equal(logits.nan_to_num(), same.nan_to_num())
        )
    except (AttributeError, TypeError, ValueError):
        return False
    finally:
        causal.train(was)
