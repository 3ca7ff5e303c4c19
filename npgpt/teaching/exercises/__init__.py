"""Exercises: write a piece of GPT-2 yourself, and be told what is wrong.

exercise.py     what an exercise is; values.py: its values
graph.py operations.py model.py attention.py rotary.py optimizer.py training.py generation.py byte_pairs.py
blocked_product.py: the exercises
trial.py        the learner's function, called with arguments that it can't change
answers.py      what it returned, compared with what is right
hints.py        the mistake that was made
grading.py      all of that, case by case
teacher.py      what is said about it
learner.py      the learner's file: written, and run in a process of its own
"""

from npgpt.teaching.exercises import (
    attention,
    blocked_product,
    byte_pairs,
    generation,
    graph,
    model,
    operations,
    optimizer,
    rotary,
    training,
)

# In the order of the course.
EXERCISES = {
    exercise.name: exercise
    for exercise in (
        graph.CHAIN_RULE,
        graph.BACKPROPAGATE,
        graph.UNBROADCAST,
        operations.LINEAR,
        operations.SOFTMAX,
        model.CROSS_ENTROPY,
        model.LAYERNORM,
        attention.ATTENTION,
        attention.CAUSAL_ATTENTION,
        attention.ATTENTION_BACKWARD,
        rotary.ROTARY,
        operations.GELU,
        model.EMBEDDING,
        operations.DROPOUT,
        optimizer.ADAMW,
        training.CLIPPING,
        training.SCHEDULE,
        optimizer.RESUME,
        generation.TOP_P,
        generation.KV_CACHE,
        byte_pairs.BYTE_PAIRS,
        blocked_product.BLOCKED_PRODUCT,
    )
}
