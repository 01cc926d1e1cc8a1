"""Adapt a local language model to each conversation's task: Text-to-LoRA as middleware."""
