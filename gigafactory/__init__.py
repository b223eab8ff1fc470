"""gigafactory: one blueprint, planned, simulated and run."""

__version__ = "0.1.0"
