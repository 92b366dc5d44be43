"""A task of one's own, as its file, and a fact to ask about."""

TASK = """
name: mine
data: facts.jsonl
max_new_tokens: 4
prompts: {plain: {user: "{{ question }}", score: answer}}
metrics: {accuracy: {count: {plain: correct}}}
tradeoff: {x: accuracy, y: accuracy}
"""
FACT = {"question": "2 + 2?", "correct_answer": "4", "incorrect_answer": "5"}
