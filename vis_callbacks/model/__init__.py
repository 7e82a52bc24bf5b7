"""All that is known about a user's model: how to leave no trace in it, read it, and name its layers."""
