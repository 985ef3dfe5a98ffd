"""How a client reaches the sessions of a machine: one protocol, one file a kind."""
