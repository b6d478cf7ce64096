"""Speculative decoding: tokens are guessed, and computed beside the one that is known; the sampler alone decides."""
