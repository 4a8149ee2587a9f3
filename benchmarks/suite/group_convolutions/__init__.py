"""Grouped convolutions one by one: which are taken, simulated on IPUs and measured here."""
