"""Measurements: each module is a program, and says what it measures and how."""
