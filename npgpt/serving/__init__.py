"""Make texts for many at once, and serve them with the OpenAI API.

batch is the work: texts join it, and each of its steps adds a token to all of them. requests says what can be asked,
and what is told of it. engine is the thread that does the work, and the queue before it.

app is the web application before the engine. A request passes connections (time limits of a socket), access_log, guard
(who may ask), body (1 MB of strict JSON) and schema (what each field may be). served makes of it what the engine takes.
completions, chat and models answer, with the objects of answers; texts brings them from the engine's thread; errors is
what all mistakes look like. playground is the page at /, made of the files in page/, and what it asks the server for.
server runs the application until a signal comes. settings, the command's flags, imports nothing heavy.
"""
