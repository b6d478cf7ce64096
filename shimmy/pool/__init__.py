"""The workers as the server sees them: how many requests come in, which worker they go to, and who has the memory."""
