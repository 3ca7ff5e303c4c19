"""Teaching: what the model computes, made visible.

interception.py   see each operation as it is made, without a word about it in the code that makes it
trace.py          ``npgpt.trace``: every operation's inputs, result and gradients, while the ordinary code runs
slopes.py         the loss a little to both sides of one element, from the model itself, in float64
explanation.py    one sentence through a model, forward and backward; what was computed, as JSON. Its parts are
                  tokens, story, sources (the code), formulas, arrays, and inside (what fused operations don't show)
page.py           ... and as a page, of the files in page/
model/            the small model that the page shows if no other is given
exercises/        functions for the reader to write, and their grading
"""
