"""Training, beside LLaMA-Factory and TRL: one model, one set of rows, one effective batch.

Every run is a process of its own on the same threads; rounds are interleaved, so that a busy
machine weighs on all alike, and what counts are medians of ratios within a round. Speed is tokens
of rows (padding not counted) per second over the second of two epochs: the same tokens for all. Peers: LLaMA-Factory 0.9.5 in
.venv-bench (`make bench` builds it), TRL as in .venv-train; both with their defaults, and with the
best of the settings they offer here (no gradient checkpointing, with rows grouped by length or
packed). On a processor TRL is spared its default of bfloat16, which AVX2 has no instructions for.
A bare loop takes Danlu's own batches with nothing around them.

    python bench/training.py [rounds] [rows]

The last line is one JSON object: vs_llamafactory, vs_trl, vs_best_peer, vs_bare_loop,
first_step_s, llamafactory_first_step_s, and the keys of bench/parts/merging.py.
"""

import importlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.datasets.rows import segments
from bench.parts import chats as data

ROOT = Path(__file__).resolve().parent.parent
TRAIN, PEERS = ROOT / ".venv-train/bin/python", ROOT / ".venv-bench/bin/python"
ROUNDS, ROWS, HELD = 5, 96, 40
BATCH, RATE, LENGTH = 8, 3e-4, 1024
THREADS = len(os.sched_getaffinity(0))
HYPERPARAMETERS = {
    "epochs": 2,
    "batch_size": BATCH,
    "precision": "fp32",  # as the peers have it; `auto` is bfloat16 on some processors
    "learning_rate": RATE,
    "lr_scheduler": "linear",
    "warmup_ratio": 0,
    "max_length": LENGTH,
    "keep_best": False,
}
PLAIN = {
    "llamafactory": {"disable_gradient_checkpointing": True},
    "trl": {"gradient_checkpointing": False},
}
GROUPED = {
    "llamafactory": {"train_sampling_strategy": "group_by_length"},
    "trl": {"train_sampling_strategy": "group_by_length"},
}
# as many tokens in a step as 8 rows have
PACKED = {
    "llamafactory": {"packing": True, "per_device_train_batch_size": 2},
    "trl": {"packing": True, "per_device_train_batch_size": 2},
}


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Bench:
    """A folder with the model and the rows; runs go beside them."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        self.model = folder / "model"
        data.model(TRAIN, self.model)
        self.rows, held = data.write(count, 1), data.write(HELD, 2)
        for name, found in (("train", self.rows), ("held", held)):
            (folder / name).mkdir()
            segments.write(found, folder / name)
        with (folder / "rows.jsonl").open("w") as file:
            file.writelines(json.dumps(row) + "\n" for row in self.rows)
        self.describe()
        self.tokens: Path | None = None
        self.number = 0

    def describe(self) -> None:
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
        about = {
            "file_name": "rows.jsonl",
            "formatting": "sharegpt",
            "columns": {"messages": "messages"},
            "tags": tags | {"assistant_tag": "assistant", "system_tag": "system"},
        }
        (self.folder / "dataset_info.json").write_text(json.dumps({"rows": about}))

    def start(self, argv: list[Any], log: Path) -> None:
        env = os.environ | {
            "OMP_NUM_THREADS": str(THREADS),
            "MKL_NUM_THREADS": str(THREADS),
            "OMP_WAIT_POLICY": "PASSIVE",  # as Danlu has it: kind to all on a machine that is busy
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.folder / "datasets"),
            "PYTHONPATH": str(ROOT),
            "DISABLE_VERSION_CHECK": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "TOKENIZERS_PARALLELISM": "true",
        }
        with log.open("w") as file:
            done = subprocess.run(list(map(str, argv)), cwd=ROOT, env=env, stdout=file, stderr=file)
        if done.returncode:
            raise SystemExit(f"{argv} failed:\n{log.read_text()[-3000:]}")

    def place(self, name: str) -> Path:
        self.number += 1
        found = self.folder / f"{self.number}-{name}"
        found.mkdir()
        return found

    def ours(self, hyperparameters: dict[str, Any] | None = None) -> dict[str, Any]:
        run = self.place("danlu")
        spec = {
            "job_id": "bench",
            "fence": 1,
            "stage": "sft",
            "method": "full",
            "base": str(self.model),
            "train": [str(self.folder / "train")],
            "validation": [str(self.folder / "held")],
            "hyperparameters": HYPERPARAMETERS | {"eval_steps": 10_000} | (hyperparameters or {}),
            "threads": THREADS,
            "cache": str(run / "cache"),  # its own: what a first job takes is what counts
        }
        (run / "spec.json").write_text(json.dumps(spec))
        started = time.time()
        self.start([TRAIN, "-m", "workers.stages.train", run], run / "log")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
        times = [line["t"] for line in lines if "loss" in line]
        self.tokens = next((run / "cache").glob("*.tokens"))
        self.of_rows = sum(line["tokens"] for line in lines if "loss" in line)
        return {"first": times[0] - started, "times": times, "save": str(run / "model")}

    def peer(self, trainer: str, extra: dict[str, Any]) -> dict[str, Any]:
        run = self.place(trainer)
        spec = {
            "trainer": trainer,
            "started": time.time(),
            "out": str(run / "out.json"),
            "model": str(self.model),
            "rows": str(self.folder / "rows.jsonl"),
            "batch": BATCH,
            "epochs": 2,
            "rate": RATE,
            "length": LENGTH,
            "threads": THREADS,
            "save": str(run / "model"),
            "extra": extra,
        }
        (run / "spec.json").write_text(json.dumps(spec))
        python = PEERS if trainer == "llamafactory" else TRAIN
        self.start([python, ROOT / "bench/parts/peer.py", run / "spec.json"], run / "log")
        return json.loads((run / "out.json").read_text()) | {"save": spec["save"]}

    def bare(self) -> dict[str, Any]:
        return self.peer("bare", {"tokens": str(self.tokens), "hyperparameters": HYPERPARAMETERS})

    def speed(self, run: dict[str, Any]) -> float:
        """Tokens of rows per second, over the second epoch."""
        times = run["times"]
        return self.of_rows / 2 / (times[-1] - times[len(times) // 2 - 1])

    def losses(self, runs: dict[str, dict[str, Any]]) -> dict[str, float]:
        found = subprocess.run(
            [
                TRAIN,
                ROOT / "bench/parts/judge.py",
                self.tokens,
                *(run["save"] for run in runs.values()),
            ],
            check=True,
            capture_output=True,
            text=True,
        )
        return dict(zip(runs, json.loads(found.stdout.splitlines()[-1]), strict=True))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def compare(folder: Path, rounds: int, count: int) -> dict[str, float]:
    bench = Bench(folder, count)
    warm = bench.ours()  # and everything is in the page cache
    tell(f"  Danlu: {bench.speed(warm):,.0f} tokens/s")
    tell(
        f"{count} rows, {bench.of_rows // 2} tokens, {THREADS} threads; two epochs, {BATCH} rows a step"
    )
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    runs: dict[str, dict[str, Any]] = {"Danlu": warm}
    for trainer in ("llamafactory", "trl"):
        for name, more in (("grouped", GROUPED), ("packed", PACKED)):
            extra = PLAIN[trainer] | more[trainer]
            run = bench.peer(trainer, extra)
            fast = bench.speed(run)
            tell(f"  {trainer}, {name}, no checkpointing: {fast:,.0f} tokens/s")
            if fast > best.get(trainer, (0.0, {}))[0]:
                best[trainer] = fast, extra
    ratios: dict[str, list[float]] = {"llamafactory": [], "trl": [], "best": [], "bare": []}
    firsts: dict[str, list[float]] = {"danlu": [], "llamafactory": []}
    for number in range(1, rounds + 1):
        # A few seconds each: the better of two, in the order A B B A, that a pause hits neither.
        pairs = [bench.ours(), bench.bare(), bench.bare(), bench.ours()]
        ours, bare = (max(found, key=bench.speed) for found in (pairs[::3], pairs[1:3]))
        runs |= {"Danlu": ours, "bare loop": bare}
        fast = bench.speed(ours)
        ratios["bare"].append(fast / bench.speed(bare))
        firsts["danlu"].append(ours["first"])
        fastest = 0.0
        for trainer, (_, extra) in best.items():
            plain, tuned = bench.peer(trainer, {}), bench.peer(trainer, extra)
            runs |= {trainer: plain, f"{trainer}, best settings": tuned}
            ratios[trainer].append(fast / bench.speed(plain))
            fastest = max(fastest, bench.speed(tuned))
            if trainer == "llamafactory":
                firsts["llamafactory"].append(plain["first"])
        ratios["best"].append(fast / fastest)
        tell(
            f"  round {number}: {fast:,.0f} tokens/s, "
            + ", ".join(f"{n} x{r[-1]:.2f}" for n, r in ratios.items())
        )
    for name, loss in bench.losses(runs).items():
        tell(f"  held-out loss of {name}: {loss:.4f}")
    seconds = {f"first step of {name}, s": found for name, found in firsts.items()}
    for name, found in (ratios | seconds).items():
        tell(f"  {name}: {spread(found)}")
    return {
        "vs_llamafactory": round(statistics.median(ratios["llamafactory"]), 2),
        "vs_trl": round(statistics.median(ratios["trl"]), 2),
        "vs_best_peer": round(statistics.median(ratios["best"]), 2),
        "vs_bare_loop": round(statistics.median(ratios["bare"]), 3),
        "first_step_s": round(statistics.median(firsts["danlu"]), 2),
        "llamafactory_first_step_s": round(statistics.median(firsts["llamafactory"]), 2),
    }


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    count = int(sys.argv[2]) if len(sys.argv) > 2 else ROWS
    folder = Path(tempfile.mkdtemp(prefix="danlu-bench-"))
    try:
        found = compare(folder, rounds, count)
        if (ROOT / "bench/parts/merging.py").exists():
            found |= importlib.import_module("bench.parts.merging").measure(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    tell(json.dumps(found))


if __name__ == "__main__":
    main()
