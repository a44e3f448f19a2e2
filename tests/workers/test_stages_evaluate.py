"""Benchmarks: which files make one ready, and what a run over them says."""

import json
from pathlib import Path

import pytest

from app.config import ROOT
from tests.workers import exams
from tests.workers.stage_runs import Stages
from workers.stages import layouts

STARTER = ROOT / "workers/starter/model"


def told(root: Path) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in layouts.ready(root)}


def test_nothing_is_ready_where_nothing_lies(tmp_path: Path) -> None:
    found = told(tmp_path / "none")
    assert {"ceval", "cmmlu", "mmlu", "gsm8k", "hellaswag"} <= found.keys()
    assert all(not one["subjects"] and not one["problem"] for one in found.values())
    assert found["ceval"]["where"] == "ceval/{dev,val}/<subject>_{dev,val}.csv"


def test_files_in_their_places_are_counted(tmp_path: Path) -> None:
    found = told(exams.write(tmp_path))
    counted = {name: (one["subjects"], one["questions"]) for name, one in found.items()}
    assert counted["ceval"] == (1, 2)
    assert counted["cmmlu"] == (1, 2)
    assert counted["mmlu"] == (2, 3)
    assert counted["gsm8k"] == (1, 6)
    assert counted["hellaswag"] == (1, None)
    assert counted["piqa"] == (0, None)


def test_rows_have_the_shape_of_lm_evals_tasks(tmp_path: Path) -> None:
    exams.write(tmp_path)
    anatomy, _ = layouts.tasks(tmp_path, "mmlu")
    assert anatomy.task == "mmlu_anatomy"
    bones = {"question": "Bones, of an adult?", "choices": ["5", "206", "1", "9"], "answer": 1}
    assert layouts.rows("mmlu", anatomy)["test"][1] == bones
    (network,) = layouts.tasks(tmp_path, "ceval")
    assert network.task == "ceval-valid_computer_network"
    assert layouts.rows("ceval", network)["val"][1]["question"] == "二加二,等于____。"


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("ceval/val/law_val.csv", "id,question,A,B,C,D,answer\n1,x,1,2,3,4,E\n", "line 2"),
        ("ceval/val/law_val.csv", "id,frage,A,B,C,D,answer\n1,x,1,2,3,4,A\n", "four answers"),
        ("mmlu/test/law_test.csv", "short,1,2\n", "line 1"),
        ("cmmlu/test/law.csv", "\0\udcff", "law.csv"),
        ("gsm8k/test.jsonl", '{"question": "x"}\n', "line 1"),
    ],
)
def test_a_file_that_is_something_else_is_told(tmp_path, file, text, why) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert why in told(tmp_path)[file.partition("/")[0]]["problem"]


@pytest.mark.slow
@pytest.mark.timeout(400)  # importing torch on a busy machine
def test_the_starter_model_is_asked_and_a_stopped_run_goes_on(stages: Stages, tmp_path: Path):
    data = exams.write(tmp_path)
    asked = {"tasks": ["ceval", "cmmlu", "mmlu", "gsm8k", "hellaswag"], "data": str(data)}
    spec = {"stage": "evaluate", "method": "", "base": STARTER, "benchmark": asked | {"limit": 2}}
    run = stages.run(**spec)
    assert run.code == 0, run.log
    assert (run.status["step"], run.status["total"]) == (6, 6)
    found = run.result["benchmark"]
    assert found["summary"]["mmlu"]["questions"] == 3
    scores = found["scores"]
    assert scores["mmlu_anatomy"]["metrics"].keys() == {"acc"}
    assert scores["gsm8k"]["metrics"].keys() == {
        "exact_match (strict-match)",
        "exact_match (flexible-extract)",
    }
    assert (scores["gsm8k"]["version"], scores["gsm8k"]["fewshot"]) == (3.0, 5)
    samples = (run.directory / "benchmark/mmlu_anatomy.jsonl").read_text().splitlines()
    first = json.loads(samples[0])
    assert first["doc"]["question"] == "How many hearts?"
    said = [float(one["acc"]) for one in map(json.loads, samples)]
    assert scores["mmlu_anatomy"]["metrics"]["acc"]["value"] == sum(said) / 2

    (checkpoint,) = run.checkpoints()
    kept = json.loads((checkpoint / "results.json").read_text())
    marked = {**kept["mmlu_virology"], "version": "kept"}
    half = {"mmlu_virology": marked}  # as if the run had ended after one task
    (checkpoint / "results.json").write_text(json.dumps(half))
    again = stages.run(**spec, resume_from=checkpoint)
    assert again.code == 0, again.log
    assert again.result["benchmark"]["scores"]["mmlu_virology"]["version"] == "kept"
    assert again.result["benchmark"]["summary"] == found["summary"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_what_cannot_be_asked_is_told(stages: Stages, tmp_path: Path) -> None:
    data = exams.write(tmp_path)
    asked = {"tasks": ["gsm8k"], "data": str(data), "fewshot": 2}
    spec = {"stage": "evaluate", "method": "", "base": STARTER}
    (data / "gsm8k/train.jsonl").unlink()
    run = stages.run(**spec, benchmark=asked)
    assert (run.code, run.status["error"]["code"]) == (1, "no_examples")
    (data / "gsm8k/test.jsonl").unlink()
    run = stages.run(**spec, benchmark=asked)
    assert (run.code, run.status["error"]["code"]) == (1, "benchmark_missing")
    exams.put(data / "mmlu/test/alchemy_test.csv", "Lead?,1,2,3,4,A\n")
    run = stages.run(**spec, benchmark={"tasks": ["mmlu"], "data": str(data)})
    assert (run.code, run.status["error"]["code"]) == (1, "benchmark_unknown")
