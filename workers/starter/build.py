"""Build the starter model: `.venv-train/bin/python -m workers.starter.build`.

Text of our own (corpus.py), a tokenizer of our own (tokenizer.py), random weights, then Danlu's
pretrain stage, run as the platform runs it: a run directory with a spec.json. What comes out is
stored in bfloat16 as workers/starter/model/, 7 MB. The same seed gives the same text and tokenizer; the
weights are the same for the same seed, processor, thread count and torch.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from app.datasets.rows import segments
from app.jobs.spec import Hyperparameters, RunSpec
from workers.starter import corpus, samples, tokenizer

ROOT = Path(__file__).resolve().parents[2]
MODEL = Path(__file__).with_name("model")
CONTEXT = 2048
ROWS = 32_000
SEED = 1
# 16 rows are about 1,600 tokens. A model of this size wants many small steps at a high rate; the
# clipping is what keeps that rate from diverging.
TRAINING = Hyperparameters(
    max_steps=2000,
    learning_rate=2e-3,
    warmup_ratio=0.04,
    batch_size=16,
    max_length=512,
    weight_decay=0.05,
    max_grad_norm=1.0,
    seed=SEED,
    logging_steps=25,
    save_seconds=300,
    keep_checkpoints=1,
)


def config() -> dict[str, object]:
    """Qwen3 with 3.7 million parameters: 6 layers of width 192, embeddings tied."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": tokenizer.VOCABULARY,
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "head_dim": 32,
        "max_position_embeddings": CONTEXT,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.SPECIAL.index("<|im_end|>"),
        "pad_token_id": tokenizer.SPECIAL.index("<|endoftext|>"),
        "dtype": "bfloat16",  # as stored; the stage trains in float32
    }


def write_base(directory: Path) -> None:
    """All of a model but its weights."""
    directory.mkdir()
    texts = (text for row in corpus.rows(20_000, SEED) for text in texts_of(row))
    tokenizer.train(texts).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(tokenizer.CONFIG, indent=2))
    (directory / "chat_template.jinja").write_text(tokenizer.CHAT_TEMPLATE)
    (directory / "config.json").write_text(json.dumps(config(), indent=2))
    generation = {
        "eos_token_id": [tokenizer.SPECIAL.index("<|im_end|>"), tokenizer.SPECIAL.index("<|endoftext|>")],
        "pad_token_id": tokenizer.SPECIAL.index("<|endoftext|>"),
        "do_sample": True,
        "temperature": 0.3,
        "top_p": 0.9,
    }  # fmt: skip
    (directory / "generation_config.json").write_text(json.dumps(generation, indent=2))


def texts_of(row: dict[str, object]) -> list[str]:
    messages = row.get("messages")
    if isinstance(messages, list):
        return [message["content"] for message in messages]
    return [str(row["text"])]


def write_run(run: Path, steps: int, threads: int) -> None:
    """A run directory for the pretrain stage, corpus and base included."""
    write_base(run / "base")
    (run / "corpus").mkdir()
    segments.write(corpus.rows(ROWS, SEED), run / "corpus")
    spec = RunSpec(
        job_id="starter",
        fence=1,
        stage="pretrain",
        method="full",
        base=str(run / "base"),
        train=[str(run / "corpus")],
        hyperparameters=TRAINING.model_copy(update={"max_steps": steps}),
        threads=threads,
    )
    (run / "spec.json").write_text(spec.model_dump_json(indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the starter model and the sample data.")
    parser.add_argument("--steps", type=int, default=TRAINING.max_steps)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=MODEL)
    options = parser.parse_args()
    samples.main()
    with tempfile.TemporaryDirectory(prefix="starter-") as run:
        write_run(Path(run), options.steps, options.threads)
        print("run directory:", run, flush=True)
        command = [sys.executable, "-m", "workers.stages.train", run]
        status = subprocess.run(command, cwd=ROOT, check=False).returncode
        if status == 0:  # also after a stop asked for, which leaves no model
            shutil.rmtree(options.out, ignore_errors=True)
            shutil.copytree(Path(run) / "model", options.out, copy_function=shutil.copyfile)
            print("built:", options.out)
    return status


if __name__ == "__main__":
    sys.exit(main())
