"""Measurements: README.md says what each one measures and how to repeat it. Nothing in npgpt imports this."""
