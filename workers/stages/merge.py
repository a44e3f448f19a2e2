"""Merge a LoRA adapter into its base: `python -m workers.stages.merge RUN_DIR`.

A stream: each tensor of the base goes into the result as it is, or with what the adapter makes of
it (lora.py), so memory holds one of them and not the model. Whatever else an adapter may carry is
refused by name rather than left out. The result appears under its name when it is complete.
"""

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

from app.jobs.spec import RunSpec
from app.models import chat_template
from workers.stages import lora, models, tensors
from workers.stages.run import Run, disk_full, execute, leave, quiet, say
from workers.stages.tensors import Tensor


def merge(run: Run, spec: RunSpec) -> dict[str, Any]:
    # -- setup: refuse what could only be merged in part
    assert spec.adapter
    base, adapter = Path(spec.base), Path(spec.adapter)
    say(f"Job {spec.job_id}, attempt {spec.fence}: merge")
    quiet(spec.threads)
    config = models.check_base(base)
    changes = lora.read_adapter(adapter)
    found = tensors.read_base(base)
    config = lora.untie(config, found, changes)
    lora.check(config, found, changes)
    total = sum(tensor.size for tensor in found)
    if shutil.disk_usage(run.directory).free < total:
        raise disk_full()

    # -- merge
    run.total = len(found)
    run.enter("merge")
    say(f"{len(found)} tensors, {total:,} bytes; {len(changes)} of them change")
    target = run.directory / "model.partial"
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that was stopped
    target.mkdir()
    import torch

    torch.set_num_threads(spec.threads)

    def write(tensor: Tensor, output: BinaryIO) -> None:
        if change := changes.get(tensor.name):
            output.writelines(tensors.raw(part) for part in lora.rows(tensor, change))
        else:
            tensors.copy(tensor, output)
        run.progress(run.step + 1)

    tensors.write_model(found, target, write)

    # -- save: everything around the weights
    run.enter("save")
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    words = adapter if (adapter / "tokenizer_config.json").exists() else base
    models.carry_tokenizer(words, target, chat_template.load(words))
    stops = models.stop_tokens(adapter if (adapter / "generation_config.json").exists() else base)
    models.write_generation_config(base, target, stops)
    shutil.rmtree(run.directory / "model", ignore_errors=True)
    target.rename(run.directory / "model")
    libraries = {name: version(name) for name in ("torch", "safetensors")}
    return {
        "kind": "merged",
        "tensors": len(found),
        "merged": len(changes),
        "bytes": total,
        "stop_token_ids": stops,
        "libraries": libraries,
    }


if __name__ == "__main__":
    leave(execute(merge))
