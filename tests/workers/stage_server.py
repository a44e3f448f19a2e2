"""Runs stages in forks of one warm process: `<train_python> tests/workers/stage_server.py`.

Importing torch and transformers takes longer than what most tests look at. Reads lines of JSON:
[module, arguments, log] starts one and answers its pid; a number waits for that pid and answers
its exit code, negative for a signal.
"""

import json
import os
import runpy
import sys
import traceback

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "OMP_WAIT_POLICY": "PASSIVE",
}

import bitsandbytes  # noqa: F401
import peft  # noqa: F401
import torch  # noqa: F401
import trl.trainer.dpo_trainer  # noqa: F401
from transformers import (  # noqa: F401
    AutoModelForCausalLM,
    AutoTokenizer,
    Qwen3ForCausalLM,
    Trainer,
)


def child(module: str, arguments: list[str], log: str) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def answer(value: object) -> None:
    sys.stdout.write(f"{value}\n")
    sys.stdout.flush()


def main() -> None:
    answer("ready")
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            answer(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]))
            continue
        pid = os.fork()
        if not pid:
            os._exit(child(*asked))
        answer(pid)


if __name__ == "__main__":
    main()
