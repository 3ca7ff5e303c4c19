"""Text for the model: files -> text -> tokens -> windows -> batches, and tokens back to text.

The names of what can be chosen stand here, where a command can read them without importing NumPy.
"""

TOKENIZERS = ("gpt2", "char", "byte")  # npgpt.text.tokenizers.make_tokenizer
SPLITS = ("tokens", "documents")  # npgpt.text.corpus.train_val_split
