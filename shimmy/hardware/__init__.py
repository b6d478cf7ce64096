"""What this machine has. Nothing here loads a native library."""
