"""Published Hugging Face Reformers, read and written."""

from reformer_dist.model.huggingface.weights import from_pretrained, to_pretrained

__all__ = ["from_pretrained", "to_pretrained"]
