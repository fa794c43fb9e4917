"""The templates of prompts that generators have of their own.

They are code, not data files, so that a key changes with them. `finery synth prompt TYPE` prints
one, to be edited in a file beside a recipe.
"""

ANSWER = """\
{# system #}
{{ system }}
{# user #}
{{ user }}
"""
"""`synth.answer`: the row's own prompt; turns between the first and the last stay as they are."""

PARAPHRASE = """\
{# system #}
You reword messages. You keep what is said: every fact, name, number and request stays, and nothing
is added. You write in the language of the message. You answer with the reworded message alone,
without quotes around it and without a word about it.
{# user #}
Reword the message between the lines, {{ style }}.

-----
{{ user }}
-----
"""
"""`synth.paraphrase`."""

INSTRUCT = """\
{# system #}
You write realistic, varied examples for a data set that trains a language model. You answer with
JSON alone.
{# user #}
Here {{ "is an example" if examples | length == 1 else "are examples" }} from the data set
{%- if value %}, of the class "{{ value }}"{% endif %}.
{% for example in examples %}
Example {{ loop.index }}
user: {{ example.user }}
{%- if answered %}
assistant: {{ example.assistant }}
{%- endif %}
{% endfor %}
{%- if persona %}
Write as this person would: {{ persona }}
{% endif %}
Write {{ count }} new {{ "example" if count == 1 else "examples" }} of the same kind
{%- if value %}, all of the class "{{ value }}"{% endif %}. Each differs from those above, and from
the others, in what it is about, in its words, its length and its tone. Answer with a JSON object:
{"examples": [{"user": "…"{% if answered %}, "assistant": "…"{% endif %}}
{%- if count > 1 %}, …{% endif %}]}
"""
"""`synth.instruct`."""

INSTRUCT_TEXT = """\
{# system #}
You write messages for a data set. You answer with one message alone, without a word about it.
{% for example in examples %}
{# user #}
Write a message{% if value %} about {{ value }}{% endif %}.
{# assistant #}
{{ example.user }}
{% endfor %}
{# user #}
Write a message{% if value %} about {{ value }}{% endif %}, another one
{%- if persona %}, as this person would: {{ persona }}{% endif %}.
"""
"""`synth.instruct` with `format: text`."""

JUDGE = """\
{# system #}
You judge examples of a data set strictly, by a rubric. You answer with JSON alone.
{# user #}
Rubric:
{{ rubric }}

Prompt:
{{ prompt }}

Answer:
{{ answer }}

Give the example a score from 1 (worst) to {{ scale }} (best) by the rubric, after a reason in one
sentence. Answer with a JSON object: {"reason": "…", "score": 1}
"""
"""The check `judge`: a score for a prompt with its answer."""

FROM_DOCS = """\
{# system #}
You write questions and answers for a data set, from documents. You answer with JSON alone.
{# user #}
Here is a part of a document{% if heading %}, from "{{ heading }}"{% endif %}, between the lines.

-----
{{ text }}
-----

Write a question {{ kind }}, in the language of the document, that it answers, and the answer.
People ask the question who don't see the document: it names what it is about, and never speaks of
"the text" or "the document". The answer says what the document says, and nothing else. The quote is
the sentence, or the part of one, that proves the answer, copied from the document word for word.
Answer with a JSON object: {"question": "…", "answer": "…", "quote": "…"}
"""
"""`synth.from_docs`."""

CONTEXT = """\
Answer the question from the context. If the context doesn't hold the answer, say so.

Context:
{% for chunk in chunks %}
[{{ loop.index }}]{% if chunk.heading %} {{ chunk.heading }}{% endif %}

{{ chunk.text }}
{% endfor %}
Question: {{ question }}
"""
"""The prompt of a row of `synth.from_docs` that has its context."""

PAIR = """\
{# system #}
You compare two answers to a prompt strictly, by a rubric. Neither their order nor their length
counts. You answer with JSON alone.
{# user #}
Rubric:
{{ rubric }}

Prompt:
{{ prompt }}

Answer A:
{{ a }}

Answer B:
{{ b }}

Say which answer is better by the rubric, A or B, or that it is a tie, after a reason in one
sentence. Answer with a JSON object: {"reason": "…", "better": "A"}
"""
"""`synth.judge` of pairs."""


def of_types() -> dict[str, str]:
    """Step type → its template; `judge` is that check's, `pairs` that of pairs in `synth.judge`,
    `context` the one that `synth.from_docs` puts a question and its context into."""
    return {
        "synth.answer": ANSWER,
        "synth.from_docs": FROM_DOCS,
        "synth.paraphrase": PARAPHRASE,
        "synth.instruct": INSTRUCT,
        "synth.instruct.text": INSTRUCT_TEXT,
        "synth.preferences": ANSWER,
        "synth.judge": JUDGE,
        "judge": JUDGE,
        "pairs": PAIR,
        "context": CONTEXT,
    }
