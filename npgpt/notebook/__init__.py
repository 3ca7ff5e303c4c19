"""The playground for notebooks: write a prompt, choose how tokens are drawn, watch the text come (extra ``notebook``).

playground.py    npgpt.playground, and the task that makes a text while the notebook goes on
controls.py      the widgets, and what their settings mean
written.py       a text as HTML, each token coloured by its probability
"""
