"""OpenAI's Responses API, stateless: nothing of a response is kept once it is sent."""
