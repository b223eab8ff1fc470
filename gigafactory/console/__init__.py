"""What people look at: the snapshot of a run, the live page over it, the report of a day."""
