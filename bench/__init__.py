"""Side-by-side measurements of servers that speak the OpenAI API. Run with `python -m bench`; see README.md."""
