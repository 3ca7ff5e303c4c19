"""Text for the model: files -> text -> tokens -> windows -> batches, and tokens back to text."""
