"""What runs inside the factory: one module a kind, each with one entry, `run(context)`."""
