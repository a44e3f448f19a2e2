"""Answers to the sample prompts, while a model is trained: greedy and short."""

from collections.abc import Callable
from typing import Any

from app.jobs.spec import RunSpec
from app.models.vocabulary import Vocabulary
from workers.stages.run import Run, say


def sampler(
    run: Run, spec: RunSpec, words: Vocabulary, stops: list[int]
) -> Callable[[Any], list[str]] | None:
    """Model → its answers, in order; None where there is nothing to ask."""
    hp = spec.hyperparameters
    if not hp.sample_prompts or run.rank:
        return None
    if spec.strategy == "fsdp" and run.ranks > 1:
        say("A model that is shared out over devices answers no sample prompts")
        return None

    def answers(model: Any) -> list[str]:
        return [answer(model, prompt) for prompt in hp.sample_prompts if run.stop_asked is None]

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
