"""Is the scheduler fair, and quick? A simulation of the decision itself, and decisions from Postgres.

The simulation drives `app.cluster.scheduling`, the very code that decides, on a virtual clock: 1,000
nodes of 8 GPUs, 100,000 jobs of 1 to 8 GPUs and shares for serving, from 40 workspaces with
weights, quotas and members, in four priorities, with runs that end early or late, die and make room.
After each decision everything held is counted anew and held against every quota. Then decisions
from a Postgres of its own: 1,000 nodes full, 5,000 waiting, and between two decisions some leave and
some come.

    python bench/scheduler.py [jobs] [decisions]

The last line is one JSON object; docs/scheduler.md says what its keys mean.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from app import embedded  # it reads no settings

HOME = Path(tempfile.mkdtemp(prefix="danlu-bench-", dir="/tmp"))
HOME.chmod(0o711)  # the embedded server runs as another user where this runs as root
AT = embedded.place(HOME)
os.environ |= {
    "DANLU_HOME": str(HOME),
    "DATABASE_URL": AT.database_url,
    "REDIS_URL": AT.redis_url,
}

from bench.parts import decisions, simulation


def main() -> None:
    jobs = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 120
    found = simulation.run(jobs, tell)
    found |= decisions.run(rounds, tell, HOME, AT)
    tell(json.dumps(found))


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
