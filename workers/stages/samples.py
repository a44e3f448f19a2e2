"""Answers to the sample prompts, while a model is trained: greedy and short."""

from collections.abc import Callable
from typing import Any

from app.jobs.spec import RunSpec
from app.models.vocabulary import Vocabulary
from workers.stages.run import Run


def sampler(
    run: Run, spec: RunSpec, words: Vocabulary, stops: list[int]
) -> Callable[[Any], list[str]] | None:
    """Model → its answers, in order; None where there is nothing to ask. One process asks, or all
    do where each has a part of the model.
    """
    hp = spec.hyperparameters
    together = spec.strategy == "fsdp" and run.ranks > 1
    if not hp.sample_prompts or (run.rank and not together):
        return None

    def answers(model: Any) -> list[str]:
        prompts = hp.sample_prompts  # together, one must not stop before the others
        return [answer(model, one) for one in prompts if together or run.stop_asked is None]

    def answer(model: Any, prompt: str) -> str:
        import torch
        from transformers import GenerationConfig

        text = prompt
        if words.template and spec.stage != "pretrain":
            asked = [{"role": "user", "content": prompt}]
            text = words.template.render(asked, add_generation_prompt=True)
        ids = words.tokenizer.encode(text, add_special_tokens=False).ids
        device = next(model.parameters()).device
        given = torch.tensor([ids or stops[:1]], device=device)
        how = GenerationConfig(
            max_new_tokens=hp.sample_tokens,
            do_sample=False,
            eos_token_id=stops or None,
            pad_token_id=stops[0] if stops else 0,
        )
        with torch.no_grad():
            out = model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), generation_config=how
            )
        return str(words.tokenizer.decode(out[0, given.shape[1] :].tolist())).strip()

    return answers
