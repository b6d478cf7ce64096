"""What a client says an answer must be, enforced token by token through llguidance."""
