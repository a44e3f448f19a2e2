"""Rows end to end without padding, each seeing itself alone (Krell et al., arXiv:2107.02027).

A pass is one long row with `position_ids` that begin anew at each of its rows and with
`cu_seq_lens_q`, where they begin (the names that transformers' attention functions share). The
attention below works row by row: on a GPU in one kernel for all of them, elsewhere one after the
other. Everything else in a model looks at one token at a time and needs no isolation.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

NAME = "danlu_isolated"


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    lengths: list[int] | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """Of query (1, heads, tokens, width), key and value (1, groups, tokens, width) → (1, tokens, heads,
    width). Without rows (generation) it is transformers' own.
    """
    if lengths is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **more
        )
        return found
    grouped = query.shape[1] != key.shape[1]
    if query.is_cuda and query.dtype in {torch.bfloat16, torch.float16} and not dropout:
        from torch.nn.attention.varlen import varlen_attn

        starts = cu_seq_lens_q
        longest = max(lengths)
        out = varlen_attn(
            *(one[0].transpose(0, 1) for one in (query, key, value)),
            starts,
            starts,
            longest,
            longest,
            scale=scaling,
            window_size=(-1, 0),
            enable_gqa=grouped,
        )
        return out[None], None
    rows = zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True)
    done = [
        scaled_dot_product_attention(
            *row, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped
        )
        for row in rows
    ]
    return torch.cat(done, dim=2).transpose(1, 2), None


def possible(causal: Any) -> bool:
    """Whether the model's rows can be isolated: attention is the only thing between tokens, all of
    it of the ordinary causal kind, and it goes through the function that we replace.
    """
    config = causal.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    return (
        kinds == {"full_attention"}
        and not getattr(config, "sliding_window", None)
        and not getattr(config, "attn_logit_softcapping", None)
        and not getattr(causal, "_is_stateful", False)
        and bool(getattr(causal, "_supports_attention_backend", False))
    )


def use(causal: Any) -> None:
    from transformers.masking_utils import AttentionMaskInterface
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, lambda *_, **__: None)
    causal.set_attn_implementation(NAME)


def kernel_works(device: torch.device) -> bool:
    """Whether the GPU's kernel is there and right, on three short rows."""
    lengths = [5, 17, 3]
    chance = torch.Generator().manual_seed(1)
    whole = torch.randn(3, 1, 4, 25, 64, generator=chance).to(device, torch.bfloat16)
    starts = torch.tensor([0, 5, 22, 25], dtype=torch.int32, device=device)
    try:
        fast, _ = attention(
            None, whole[0], whole[1], whole[2], cu_seq_lens_q=starts, lengths=lengths
        )
    except (RuntimeError, ImportError, TypeError, ValueError, NotImplementedError):
        return False
    query, key, value = whole.float()
    slow, _ = attention(None, query, key, value, lengths=lengths)
    return bool(torch.allclose(fast.float(), slow, atol=2e-2))
