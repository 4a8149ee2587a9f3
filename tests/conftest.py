"""Settings of the whole suite: one thread per worker, as `make test` runs a worker per core."""

import os
import tempfile

# before torch is imported, and for the processes that tests start: threads of two workers that wait
# for each other on two cores take many times as long as one thread each
os.environ["OMP_NUM_THREADS"] = "1"

# no test reads or writes the user's plans
_plans = tempfile.TemporaryDirectory(prefix="ipu-model-")
os.environ["IPU_MODEL_CACHE_DIR"] = _plans.name
