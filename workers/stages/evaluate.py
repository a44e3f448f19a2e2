"""Ask a model the questions of benchmarks: `python -m workers.stages.evaluate RUN_DIR`.

lm-eval's own tasks and model, over data that lies on this node (workers.stages.layouts). One task
is one step; what is known after it is a checkpoint, so a run that was stopped goes on with the next.
The result is `benchmark/`: results.json, and the samples of each task with what the model said.
"""

import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from app.errors import N_
from app.jobs.spec import Benchmark, RunSpec
from workers.stages import layouts, loading
from workers.stages.layouts import Subject
from workers.stages.run import Run, StageError, execute, leave, quiet, say

SEED = 1234


def evaluate(run: Run, spec: RunSpec) -> dict[str, Any]:
    # -- setup: nothing from outside, no file but those of the run
    asked = spec.benchmark
    assert asked
    say(f"Job {spec.job_id}, attempt {spec.fence}: {', '.join(asked.tasks)}")
    quiet(spec.threads)
    os.environ |= {"HF_DATASETS_OFFLINE": "1", "HF_HOME": str(run.directory / "cache")}
    work = [(name, one) for name in asked.tasks for one in layouts.tasks(Path(asked.data), name)]
    lacking = set(asked.tasks) - {name for name, _ in work}
    if lacking:
        raise StageError(
            "benchmark_missing",
            N_("The data of %(names)s is not on this node any more."),
            names=", ".join(sorted(lacking)),
        )
    target = run.directory / "benchmark"
    resume(run, spec, target)
    run.total = len(work)

    # -- model: the base, and an adapter as it is served
    run.enter("load")
    model = read_model(spec)
    manager = manager_of(asked.tasks)

    # -- ask
    run.enter("evaluate")
    scores: dict[str, Any] = json.loads((target / "results.json").read_text())
    for name, subject in work:
        if subject.task not in scores:
            found = ask(model, manager, asked, name, subject, run.directory / "data")
            scores[subject.task] = found.pop("score") | {"benchmark": name}
            save(target, subject.task, found["samples"], scores)
            checkpoint(run, target, len(scores))
        run.progress(len(scores))

    # -- save
    run.enter("save")
    shutil.rmtree(run.directory / "data", ignore_errors=True)
    shutil.rmtree(run.directory / "cache", ignore_errors=True)
    libraries = {name: version(name) for name in ("lm-eval", "torch", "transformers")}
    told = {"scores": scores, "summary": summary(scores), "libraries": libraries}
    for name, total in told["summary"].items():
        run.line(f"{name}: {total}")
    return {"kind": "benchmark", "steps": len(scores), "benchmark": told, "libraries": libraries}


def resume(run: Run, spec: RunSpec, target: Path) -> None:
    """What an earlier attempt knew already."""
    shutil.rmtree(target, ignore_errors=True)
    if spec.resume_from:
        shutil.copytree(spec.resume_from, target, ignore=shutil.ignore_patterns("complete"))
        run.event("resumed", N_("Goes on from an earlier attempt."))
        return
    target.mkdir()
    (target / "results.json").write_text("{}")


def read_model(spec: RunSpec) -> Any:
    """The weights as a tuning run reads them (safetensors, no code of others), in lm-eval's hands."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    base = Path(spec.base)
    torch.set_num_threads(spec.threads)
    model = loading.read_model(spec, base)
    words = base
    if spec.adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, spec.adapter)
        if (Path(spec.adapter) / "tokenizer_config.json").exists():
            words = Path(spec.adapter)
    tokenizer = AutoTokenizer.from_pretrained(words, local_files_only=True, trust_remote_code=False)
    many: str | int = "auto" if spec.device == "cuda" else 8
    return HFLM(
        pretrained=model.to(spec.device).eval(),
        tokenizer=tokenizer,
        device=spec.device,
        batch_size=many,
    )


def manager_of(names: list[str]) -> Any:
    """lm-eval's tasks of these benchmarks, and no others: it has ten thousand."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    home = Path(lm_eval.tasks.__file__).parent
    folders = sorted({str(home / layouts.folder(name)) for name in names})
    return TaskManager(include_path=folders, include_defaults=False)


def ask(
    model: Any, manager: Any, asked: Benchmark, name: str, subject: Subject, room: Path
) -> dict[str, Any]:
    """One task: {score: {metric: {value, error}, questions, version, fewshot}, samples}."""
    from lm_eval.evaluator import simple_evaluate

    say(subject.task)
    found = simple_evaluate(
        model,
        tasks=[str(configured(manager, asked, name, subject, room))],
        num_fewshot=asked.fewshot,
        limit=asked.limit,
        apply_chat_template=asked.chat,
        fewshot_as_multiturn=asked.chat,
        task_manager=manager,
        bootstrap_iters=1000,
        random_seed=SEED,
        numpy_random_seed=SEED,
        torch_random_seed=SEED,
        fewshot_random_seed=SEED,
    )
    measured = found["results"][subject.task]
    score: dict[str, Any] = {
        "metrics": {},
        "questions": len({one["doc_id"] for one in found["samples"][subject.task]}),
        "version": found["versions"].get(subject.task),
        "fewshot": found["n-shot"].get(subject.task),
    }
    for key, value in measured.items():
        metric, _, kind = key.partition(",")
        if not kind or metric.endswith("_stderr"):
            continue
        label = metric if kind == "none" else f"{metric} ({kind})"
        error = measured.get(f"{metric}_stderr,{kind}")
        score["metrics"][label] = {
            "value": float(value),
            "error": float(error) if isinstance(error, float) else None,
        }
    return {"score": score, "samples": found["samples"][subject.task]}


def configured(manager: Any, asked: Benchmark, name: str, subject: Subject, room: Path) -> Path:
    """A file with lm-eval's task, reading what lies here in place of what it would download."""
    entry = manager.task_index.get(subject.task)
    if entry is None:
        raise StageError(
            "benchmark_unknown",
            N_("lm-eval has no task %(task)s: is the file's name that of a subject?"),
            task=subject.task,
        )
    found: dict[str, Any] = {"include": str(entry.yaml_path)}
    if subject.copy:
        found["dataset_path"] = str(subject.copy)
    else:
        found |= {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {"data_files": written(name, subject, room / subject.task)},
        }
        if len(subject.files) < 2:  # no examples to show
            if asked.fewshot:
                raise StageError(
                    "no_examples",
                    N_("%(task)s has no examples to show: ask for none, or add the files."),
                    task=subject.task,
                )
            found |= {"num_fewshot": 0, "fewshot_split": None, "training_split": None}
    room.mkdir(parents=True, exist_ok=True)
    path = room / f"{subject.task}.yaml"
    path.write_text(json.dumps(found))  # which is YAML
    return path


def written(name: str, subject: Subject, home: Path) -> dict[str, str]:
    """Split → file of the rows, as lm-eval's task reads them."""
    try:
        splits = layouts.rows(name, subject)
    except layouts.Unreadable as error:
        raise StageError(
            "benchmark_unreadable",
            N_("The benchmark's files cannot be read: %(reason)s"),
            reason=str(error),
        ) from error
    home.mkdir(parents=True, exist_ok=True)
    files = {}
    for split, rows in splits.items():
        path = home / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        files[split] = str(path)
    return files


def save(target: Path, task: str, samples: list[dict[str, Any]], scores: dict[str, Any]) -> None:
    """The samples of a task, then the scores that say that they are there."""
    with (target / f"{task}.jsonl").open("w", encoding="utf-8") as file:
        for sample in samples:
            file.write(json.dumps(sample, ensure_ascii=False, default=str) + "\n")
    partial = target / "results.partial"
    partial.write_text(json.dumps(scores, ensure_ascii=False))
    partial.replace(target / "results.json")


def checkpoint(run: Run, target: Path, step: int) -> None:
    """What is known by now, for the next attempt; the one before is not needed then."""
    made = run.checkpoints / f"checkpoint-{step}"
    shutil.rmtree(made, ignore_errors=True)
    shutil.copytree(target, made)
    (made / "complete").touch()
    for old in run.checkpoints.glob("checkpoint-*"):
        if old != made:
            shutil.rmtree(old, ignore_errors=True)


def summary(scores: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Benchmark → metric → mean over its tasks, each weighted by its questions, as lm-eval's groups."""
    found: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(score["benchmark"] for score in scores.values()):
        mine = [score for score in scores.values() if score["benchmark"] == name]
        found[name] = {"questions": float(sum(score["questions"] for score in mine))}
        for metric in mine[0]["metrics"]:
            having = [score for score in mine if metric in score["metrics"]]
            total = sum(score["questions"] for score in having)
            value = sum(score["metrics"][metric]["value"] * score["questions"] for score in having)
            found[name][metric] = value / total if total else 0.0
    return found


if __name__ == "__main__":
    leave(execute(evaluate))
