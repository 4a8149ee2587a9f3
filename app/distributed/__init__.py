"""Several instances that train one model: which one this is, and how they talk to each other.

An instance is one process with its share of the replicas. ``place`` says which one this process is,
``join`` brings the instances together, and a ``World`` is what the rest of the application sees.
"""
