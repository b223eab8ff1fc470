"""The ledger: everything that happened, in order, and the questions one can ask of it."""
