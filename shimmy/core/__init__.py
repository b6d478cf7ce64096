"""What all other packages share: requests, events, errors, settings, and the messages between server and workers."""
