"""What the service may cost."""
