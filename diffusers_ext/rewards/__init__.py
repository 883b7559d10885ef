"""Generative reward models: the question, the model that answers it, and the verdict."""
