"""The project's own question, answered with numbers on this machine: what does a queue or a pool cost, near
and far, and what does a fault cost?

The same work and the same faults over every transport and every pool: `jobs` says which, `runner` runs each
in processes of its own (`stage`) and in bounded time, `results` gathers, and `report` tells.
"""
