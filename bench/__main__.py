"""Run every bench, one after the other: `make bench`."""

import subprocess
import sys
from pathlib import Path


def main() -> int:
    status = 0
    for bench in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        sys.stdout.write(f"== {bench.name}\n")
        sys.stdout.flush()
        status |= subprocess.run([sys.executable, bench], check=False).returncode
    return status


if __name__ == "__main__":
    sys.exit(main())
