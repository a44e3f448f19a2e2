"""`chunked_loss`: the loss in chunks against torch's own, values and gradients. Fails by assertion."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from workers.stages import losses


def main() -> None:
    torch.manual_seed(3)
    losses.CHUNK_BYTES["cpu"] = 4 * 50 * 7  # 7 tokens of a vocabulary of 50
    for count, bias in ((40, True), (7, False), (1, False), (0, False)):
        head = nn.Linear(16, 50, bias=bias)
        hidden = torch.randn(count, 16, requires_grad=True)
        labels, weights = torch.randint(50, (count,)), torch.rand(count)
        loss, right = losses.score(head, hidden, labels, weights)
        (loss * 3).backward()
        found = [hidden.grad, *(one.grad for one in head.parameters())]
        hidden.grad = None
        head.zero_grad()
        logits = head(hidden)
        plain = (cross_entropy(logits, labels, reduction="none") * weights).sum()
        (plain * 3).backward()
        torch.testing.assert_close(loss, plain)
        assert int(right) == int((logits.argmax(-1) == labels).sum())
        for mine, theirs in zip(
            found, [hidden.grad, *(one.grad for one in head.parameters())], strict=True
        ):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = torch.randn(20, 16, requires_grad=True)
        labels, weights = torch.randint(50, (20,)), torch.ones(20)
        head = nn.Linear(16, 50)
        loss, _ = losses.score(head, hidden, labels, weights)
        loss.backward()
        exact = cross_entropy(hidden @ head.weight.T + head.bias, labels, reduction="sum")
    torch.testing.assert_close(loss, exact.float(), rtol=2e-2, atol=2e-2)
    assert hidden.grad.dtype == head.weight.grad.dtype == torch.float32


if __name__ == "__main__":
    main()
