"""The merging stage with shards of 50 kB, so that a small model needs several."""

import sys

from workers.stages import merge
from workers.stages.run import execute

if __name__ == "__main__":
    merge.SHARD = 50_000
    sys.exit(execute(merge.merge))
