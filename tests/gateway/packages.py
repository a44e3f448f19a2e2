"""Other versions of clients than those that are installed, kept beside the environments."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from app.config import ROOT

# The oldest 1.x that works with httpx 0.28, and what it needs beside our packages.
OPENAI_1 = ("openai==1.55.3", "distro==1.9.0")
DASHSCOPE_1 = ("dashscope==1.27.8",)  # the newest 1.x; 2.x is installed


def place(*pins: str) -> Path:
    """A directory for PYTHONPATH with these packages alone, installed once for all runs."""
    found = ROOT / ".venv-clients" / "+".join(pins)
    if not found.exists():
        found.parent.mkdir(exist_ok=True)
        made = tempfile.mkdtemp(dir=found.parent)
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", made, *pins]
        subprocess.run(pip, check=True)
        try:
            os.rename(made, found)
        except OSError:  # another run was quicker
            shutil.rmtree(made)
    return found
