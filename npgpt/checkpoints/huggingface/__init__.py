"""Hugging Face folders and the hub."""
