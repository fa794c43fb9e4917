"""Help of the settings that rows and models with retrieved context share."""

K_HELP = "How many chunks to retrieve for each question."
PROMPT_HELP = (
    "File with the Jinja template for the last user turn. It knows `question`, `chunks` (each with "
    "`label`, `text`, `source`, `heading`, `id` and `line` or `page`) and `unknown`."
)
LIMIT_HELP = (
    "Maximum tokens of all chunks in a prompt. Chunks that don't fit are left out as a whole, the "
    "last ones first. Needs an index with `tokenizer`, which counts the tokens. The rest of the "
    "prompt doesn't count: the question, the template, sources and headings."
)
UNKNOWN_HELP = "What the model is to answer if the documents don't contain the answer."
