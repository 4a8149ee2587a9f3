"""The benchmark suite: every figure of the articles, beside published ones and this CPU's.

``python -m app benchmark`` runs it. A *section* (``sections/``) names the jobs it needs and makes a
chapter of their results; ``running`` runs each job once, whatever the number of sections that need
it, and keeps its result; ``page`` and ``files`` show the chapters; ``gate`` holds named figures to
what is committed.
"""
