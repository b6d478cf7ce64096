"""Between chat messages and the text a model reads."""
