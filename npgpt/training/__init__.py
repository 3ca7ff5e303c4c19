"""Training. Read loop.py first; run.py names the parts of a run, begin.py makes one, execute.py trains and saves it."""
