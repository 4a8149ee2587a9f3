"""The paper's comparisons in miniature: ``python -m benchmarks.reproduce``."""
