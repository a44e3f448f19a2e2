"""The model card that goes with a download."""

import yaml

from app.db import now
from app.models.card import markdown
from app.models.schemas import Ancestor, ModelDetail

EVIL = 'x"\n---\nbase_model: <script>alert(1)</script> [a](javascript:b) `c` | d'
DATA = {"id": "ds_1", "name": "评价", "version": 2, "hash": "ab" * 32, "rows": 3000}


def detail(**overrides) -> ModelDetail:
    values = {
        "id": "mdl_1", "name": "mood", "kind": "adapter", "shared": False,
        "architecture": "Qwen3ForCausalLM", "parameters": 1000, "context_length": 2048,
        "size": 4000, "licence": "Apache-2.0", "base_id": "mdl_0", "parent_id": "mdl_0",
        "job_id": "job_1", "created_at": now(), "ancestors": [],
        "lineage": {
            "base": {"id": "mdl_0", "name": "starter"}, "dataset": DATA, "stage": "sft",
            "method": "lora", "spec": {"epochs": 3.0, "max_steps": None},
            "measured": {"loss": 0.25, "eval_loss": 0.5, "steps": 90},
            "code": "danlu 0.1.0", "libraries": {"torch": "2.13.0"},
        },
    }  # fmt: skip
    return ModelDetail(**values | overrides)


def parts(text: str) -> tuple[dict, str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_card_says_where_the_model_comes_from() -> None:
    before = Ancestor(
        id="mdl_p", name="pretrained", kind="merged", job_id="job_0",
        lineage={"stage": "pretrain", "method": "full", "dataset": DATA | {"name": "books"}},
    )  # fmt: skip
    base = Ancestor(id="mdl_0", name="starter", kind="base", job_id=None, lineage={})
    head, body = parts(markdown(detail(ancestors=[base, before])))
    assert head == {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "license": "apache-2.0",
        "base_model": ["starter"],
        "base_model_relation": "adapter",
        "datasets": ["books", "评价"],
        "tags": ["danlu", "lora", "sft"],
    }
    assert "1. **starter**, the base" in body
    assert "2. Continued pre-training, full on books, version 2 (3,000 rows" in body
    assert f"3. Supervised fine-tuning (SFT), lora on 评价, version 2 (3,000 rows, SHA-256 `{'ab' * 32}`): **mood**" in body  # fmt: skip
    assert "| Validation loss | 0.5 |" in body
    assert "| max\\_steps |  |" in body
    assert "| torch | 2.13.0 |" in body


def test_names_from_users_stay_names() -> None:
    lineage = detail().lineage
    hostile = lineage | {
        "base": {"id": "m", "name": EVIL},
        "dataset": DATA | {"name": EVIL, "hash": EVIL},
        "spec": {EVIL: EVIL},
    }
    text = markdown(detail(name=EVIL, lineage=hostile))
    head, body = parts(text)
    assert head["base_model"] == [EVIL]
    assert head["datasets"] == [EVIL]
    assert "<script" not in body
    assert "\n---" not in body
    assert "](javascript" not in body
