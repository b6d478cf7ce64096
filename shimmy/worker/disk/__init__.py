"""The disk tier: what a model computed for a prompt, kept in files. It knows bytes and token ids, and nothing of llama.

Whatever goes wrong here is a miss: the prompt is computed as if there were no tier.
"""
