"""What the callbacks of one Trainer share: hooks, schedule, budget, and the work of one event."""
