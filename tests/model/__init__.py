"""An explicit-state model of the order protocol: every state that a small world can get into, and what must hold there.

The world has gateways, orders with its relay, and two participants. The network loses, delays and repeats messages;
processes die between any two steps; holds expire, orders are cancelled, prices change, rivals take goods, and the
orders database goes back in time. `rules` says what each party does; `mutations` takes one rule away at a time, and
shows that an invariant then breaks. What is not modelled: clocks, isolation levels, orders of several lines.

    python3 -m tests.model --help

Standard library only. A rule of the protocol changes here first.
"""
