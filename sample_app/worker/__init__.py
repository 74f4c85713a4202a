"""What is done in the background: the tasks, and what they work with."""
