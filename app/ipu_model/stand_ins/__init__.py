"""Modules called ``poptorch``, ``popdist`` and ``popart`` that hand over to the IPU Model's own.

The runner puts this folder on the import path before anything installed, so that a process which
inherits nothing but its path (spawn, forkserver, a plain child) finds the IPU Model too. Each file
here only installs the import hook of ``app.ipu_model.aliases`` and gives its place up.
"""
