"""Scores of a model: how well it predicts texts, last words and endings, and how far two models are apart.

    spans.py             what is to be predicted from what: pieces of tokens; sliding windows over a text; batches
    losses.py            the model's loss on each token that is to be predicted
    perplexity.py        of a text           last_words.py        as in LAMBADA
    multiple_choice.py   as in HellaSwag     divergence.py        between two models
    examples.py          JSON Lines from strangers                statistics.py        means and their standard errors
    report.py            results as a table and as JSON

The names of what can be chosen stand here, where a command can read them without importing NumPy.
"""

TASKS = ("perplexity", "lambada", "hellaswag")
