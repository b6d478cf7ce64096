"""What prepares a checkout: llama.cpp's libraries and the demo model, built or fetched once per machine.

README.md beside this file explains the steps. Nothing in shimmy/ imports from here.
"""
