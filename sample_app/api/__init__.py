"""The HTTP endpoints and what they depend on."""
