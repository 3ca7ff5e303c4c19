"""Exercises: write a piece of GPT-2 yourself, and be told what is wrong.

exercise.py     what an exercise is; values.py: its values
graph.py operations.py model.py attention.py positions.py optimizer.py training.py generation.py: the exercises
trial.py        the learner's function, called with arguments that it can't change
answers.py      what it returned, compared with what is right
hints.py        the mistake that was made
grading.py      all of that, case by case
teacher.py      what is said about it
learner.py      the learner's file: written, and run in a process of its own
"""

from npgpt.teaching.exercises import (
    attention,
    generation,
    graph,
    model,
    operations,
    optimizer,
    positions,
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
        positions.ROTARY,
        operations.GELU,
        model.EMBEDDING,
        operations.DROPOUT,
        optimizer.ADAMW,
        training.CLIPPING,
        training.SCHEDULE,
        optimizer.RESUME,
        generation.TOP_P,
        positions.KV_CACHE,
        generation.BYTE_PAIRS,
        generation.BLOCKED_PRODUCT,
    )
}
