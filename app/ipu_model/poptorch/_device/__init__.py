"""The simulated device of one executor: memory, micro-batches, counters, files."""
