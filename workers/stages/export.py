"""Export a model as GGUF with an Ollama Modelfile: `python -m workers.stages.export RUN_DIR`.

A stream, as the merge: each tensor of the base, with what an adapter makes of it, goes into
model.gguf in llama.cpp's form (float16, or 8 bits in blocks of 32), so memory holds one of them.
The result appears under its name, `export`, when it is complete.
"""

import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.jobs.spec import RunSpec
from app.models import chat_template
from workers.stages import gguf_weights, gguf_words, lora, models, ollama, tensors
from workers.stages.run import Run, disk_full, execute, leave, quiet, say


def export(run: Run, spec: RunSpec) -> dict[str, Any]:
    # -- setup: refuse what llama.cpp would compute otherwise
    assert spec.format
    base, adapter = Path(spec.base), Path(spec.adapter) if spec.adapter else None
    say(f"Job {spec.job_id}, attempt {spec.fence}: export as GGUF, {spec.format}")
    quiet(spec.threads)
    config = models.check_base(base)
    changes = lora.read_adapter(adapter) if adapter else {}
    found = tensors.read_base(base)
    config = lora.untie(config, found, changes)
    lora.check(config, found, changes)
    shape = gguf_weights.shape_of(config)
    plan = gguf_weights.plan(shape, found, spec.format)
    if shutil.disk_usage(run.directory).free < sum(output.size for output in plan):
        raise disk_full()

    # -- words: tokenizer, template, stops; the adapter's own where it has them
    words = adapter if adapter and (adapter / "tokenizer_config.json").exists() else base
    template = chat_template.load(words)
    saying = adapter if adapter and (adapter / "generation_config.json").exists() else base
    stops = models.stop_tokens(saying)
    target = run.directory / "export.partial"
    shutil.rmtree(target, ignore_errors=True)  # of an attempt that was stopped
    target.mkdir()
    import torch
    from gguf import GGUFWriter

    torch.set_num_threads(spec.threads)
    writer = GGUFWriter(target / "model.gguf", shape.arch)
    writer.add_type("model")
    gguf_weights.describe(writer, shape, spec.format)
    gguf_words.describe(run, writer, words, stops, int(config["vocab_size"]))
    if template:
        writer.add_chat_template(template.source)

    # -- write: the header, then the tensors in its order
    run.total = len(plan)
    run.enter("export")
    write(run, writer, plan, changes)

    # -- save
    run.enter("save")
    generation = saying / "generation_config.json"
    text = ollama.modelfile(
        template,
        models.read(generation) if generation.is_file() else {},
        gguf_words.texts(words, stops),
        context=int(config["max_position_embeddings"]),
        bos=gguf_words.begins(words),
    )
    (target / "Modelfile").write_text(text, "utf-8")
    size = (target / "model.gguf").stat().st_size
    shutil.rmtree(run.directory / "export", ignore_errors=True)
    target.rename(run.directory / "export")
    say(f"model.gguf: {size:,} bytes")
    libraries = {name: version(name) for name in ("torch", "gguf", "tokenizers")}
    return {"kind": "export", "format": spec.format, "bytes": size, "libraries": libraries}


def write(run: Run, writer: Any, plan: list[gguf_weights.Output], changes: lora.Changes) -> None:
    import numpy as np

    for output in plan:
        writer.add_tensor_info(
            output.name, output.shape, np.dtype(np.float32), output.size, raw_dtype=output.quant
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    file = writer.fout[0]
    writer.write_padding(file, file.tell())
    for output in plan:
        began = file.tell()
        file.writelines(gguf_weights.content(output, changes))
        assert file.tell() - began == output.size, output.name
        writer.write_padding(file, output.size)
        run.progress(run.step + 1)
    writer.close()


if __name__ == "__main__":
    leave(execute(export))
