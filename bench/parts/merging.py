"""Our merge beside peft's, on a model of Qwen3-0.6B's shape (1.2 GB, bfloat16, random weights).

    .venv/bin/python -m bench.parts.merging [FOLDER]

Each merge is a process of its own, from start to the last byte written, with the same threads;
the runs alternate, and their medians are compared. Memory is the peak resident set above what the
same process has once its libraries are imported. `measure` is what `bench/training.py` calls.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("DANLU_TRAIN_PYTHON", str(ROOT / ".venv-train/bin/python"))
THREADS = len(os.sched_getaffinity(0))
PAIRS = 3
LAYERS = 28


def measure(folder: Path, layers: int = LAYERS, pairs: int = PAIRS) -> dict[str, Any]:
    """{merge_peak_vs_peft, merge_time_vs_peft, and what they are made of}."""
    base, adapter, run = folder / "base", folder / "adapter", folder / "run"
    child("make", str(base), str(adapter), str(layers))
    floor = child("import-ours")["rss"]
    ours, theirs = [], []
    for _ in range(pairs):
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        spec = {"job_id": "bench", "fence": 1, "stage": "merge", "base": str(base)}
        spec |= {"adapter": str(adapter), "threads": THREADS}
        (run / "spec.json").write_text(json.dumps(spec))
        ours.append(timed([PYTHON, "-m", "workers.stages.merge", str(run)], run / "log"))
        shutil.rmtree(folder / "peft", ignore_errors=True)
        theirs.append(child("peft", str(base), str(adapter), str(folder / "peft")))
    child("compare", str(run / "model"), str(folder / "peft"))
    peak = median(one["rss"] - floor for one in ours)
    their_peak = median(one["rss"] - one["floor"] for one in theirs)
    seconds, their_seconds = (median(one["seconds"] for one in all_) for all_ in (ours, theirs))
    largest = max(tensor_bytes(base / "model.safetensors"))
    return {
        "merge_peak_vs_peft": round(peak / their_peak, 4),
        "merge_time_vs_peft": round(seconds / their_seconds, 3),
        "merge_peak_mb": round(peak / 1e6),
        "peft_peak_mb": round(their_peak / 1e6),
        "merge_peak_vs_largest_tensor": round(peak / largest, 3),
        "merge_seconds": round(seconds, 2),
        "peft_seconds": round(their_seconds, 2),
        "model_gb": round((base / "model.safetensors").stat().st_size / 1e9, 2),
    }


def tensor_bytes(path: Path) -> list[int]:
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    header.pop("__metadata__", None)
    return [one["data_offsets"][1] - one["data_offsets"][0] for one in header.values()]


def timed(command: list[str], log: Path) -> dict[str, Any]:
    """{seconds, rss (bytes, peak)} of a process. Raises CalledProcessError."""
    began = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=output,
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.stderr.write(log.read_text()[-2000:])
        raise subprocess.CalledProcessError(process.returncode, command)
    return {"seconds": time.monotonic() - began, "rss": used.ru_maxrss * 1024}


def child(what: str, *arguments: str) -> dict[str, Any]:
    """One of the functions below, in the training environment."""
    with tempfile.TemporaryDirectory() as at:
        log = Path(at) / "log"
        found = timed([PYTHON, "-m", "bench.parts.merging", what, *arguments], log)
        said = log.read_text().splitlines()
        return found | (json.loads(said[-1]) if said and said[-1].startswith("{") else {})


# -- in the training environment -----------------------------------------------------------


def make(base: Path, adapter: Path, layers: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=151_936,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["Qwen3ForCausalLM"],
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(base, max_shard_size="5GB")
    tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.data = 0.02 * torch.randn_like(weight)
    tuned.save_pretrained(adapter, save_embedding_layers=False)


def merge_with_peft(base: Path, adapter: Path, target: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, Qwen3ForCausalLM  # noqa: F401 - the floor's

    floor = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto", local_files_only=True)
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(target, max_shard_size="5GB")
    print(json.dumps({"floor": floor}))


def compare(ours: Path, theirs: Path) -> None:
    from safetensors import safe_open

    with (
        safe_open(ours / "model.safetensors", "pt") as a,
        safe_open(theirs / "model.safetensors", "pt") as b,
    ):
        assert set(a.keys()) == set(b.keys())
        for name in a.keys():  # noqa: SIM118 - no dict
            assert a.get_tensor(name).equal(b.get_tensor(name)), name


def main() -> None:
    what, *arguments = sys.argv[1:] or ["measure"]
    if what == "make":
        make(Path(arguments[0]), Path(arguments[1]), int(arguments[2]))
    elif what == "peft":
        merge_with_peft(*map(Path, arguments))
    elif what == "compare":
        compare(*map(Path, arguments))
    elif what == "import-ours":
        import safetensors  # noqa: F401
        import torch  # noqa: F401
    else:
        with tempfile.TemporaryDirectory(dir=None if what == "measure" else what) as folder:
            print(json.dumps(measure(Path(folder))))


if __name__ == "__main__":
    main()
