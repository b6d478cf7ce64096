"""What names of models in Ollama's registry leave out: they are the same in its store, in ours and over HTTP."""

OLLAMA_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
