"""The merging stage with shards of 50 kB, so that a small model needs several."""

import sys

from workers.stages import merge, tensors
from workers.stages.run import execute

if __name__ == "__main__":
    tensors.SHARD = 50_000
    tensors.PIECE = 3000  # and each tensor in pieces
    sys.exit(execute(merge.merge))
