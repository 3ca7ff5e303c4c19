"""A server with the OpenAI API, and the playground in the browser.

engine makes the texts: one thread, one batch that requests join and leave. app is the web application. A request passes
connections (time limits of a socket), access_log and guard (who may ask), body (1 MB of strict JSON) and schema (what
each field may be). requests makes of it what the engine takes; completions and chat answer with what the engine makes.
server runs it all until a signal comes. settings, the command's flags, imports nothing heavy.
"""
