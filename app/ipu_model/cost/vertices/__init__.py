"""Cycles of PopLibs' vertices on one tile, in closed form; no knowledge of operations."""
