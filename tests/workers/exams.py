"""Small benchmarks in the files in which they are given out."""

import json
from pathlib import Path

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train.jsonl
  - split: validation
    path: data/validation.jsonl
---
"""


def write(root: Path) -> Path:
    """C-Eval, CMMLU, MMLU, GSM8K and a copy of HellaSwag's repository, below `root`."""
    for split in ("dev", "val"):
        put(
            root / f"ceval/{split}/computer_network_{split}.csv",
            "id,question,A,B,C,D,answer,explanation\n"
            "0,下列不属于传输层协议的是____。,TCP,UDP,HTTP,SCTP,C,应用层\n"
            '1,"二加二,等于____。",1,4,3,5,B,\n',
        )
    for split in ("dev", "test"):
        put(
            root / f"cmmlu/{split}/anatomy.csv",
            ",Question,A,B,C,D,Answer\n0,人有几颗心脏？,一,二,三,四,A\n1,成人有几块骨头？,5,206,1,9,B\n",
        )
        put(
            root / f"mmlu/{split}/anatomy_{split}.csv",
            'How many hearts?,1,2,3,4,A\n"Bones, of an adult?",5,206,1,9,B\n',
        )
        put(root / f"mmlu/{split}/virology_{split}.csv", "Is a virus a cell?,no,yes,often,x,A\n")
    for split in ("train", "test"):
        put(
            root / f"gsm8k/{split}.jsonl",
            "".join(
                json.dumps({"question": f"{n} and 4?", "answer": f"{n}+4\n#### {n + 4}"}) + "\n"
                for n in range(6)
            ),
        )
    put(root / "hellaswag/README.md", README)
    ending = {"activity_label": "Cooking", "ctx_a": "A man", "ctx_b": "he", "ctx": "A man. he"}
    row = ending | {"endings": ["eats.", "flies.", "swims.", "sings."], "label": "0"}
    for split in ("train", "validation"):
        put(root / f"hellaswag/data/{split}.jsonl", (json.dumps(row) + "\n") * 3)
    return root


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
