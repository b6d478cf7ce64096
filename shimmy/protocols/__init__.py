"""The APIs that clients speak, one folder for each: wire to core and back. None knows another."""
