"""Checks over the three databases of Souk what must hold after any history; see docs/audit.md.

It imports none of the services: it reads the columns that every version of them has, so that it can audit databases
of several versions, and it changes nothing.
"""
