"""OpenAI's release of GPT-2: TensorFlow checkpoints."""
