"""Make texts for many at once.

batch is the work: texts join it, and each of its steps adds a token to all of them. requests says what can be asked,
and what is told of it. engine is the thread that does the work, and the queue before it.
"""
