"""Souk under faults: processes killed, messages lost and late, disks full; and what must hold all the same."""
