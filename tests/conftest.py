"""Settings of the whole suite: one thread per worker, as `make test` runs a worker per core."""

import os

# before torch is imported, and for the processes that tests start: threads of two workers that wait
# for each other on two cores take many times as long as one thread each
os.environ["OMP_NUM_THREADS"] = "1"
