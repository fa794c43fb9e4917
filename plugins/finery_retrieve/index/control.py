"""Control tokens in documents: a chat template would take them for real ones.

A `<|im_end|>` in a document would end the user's turn there, and what follows could pass for
another turn. Tokenizers recognise such tokens wherever they are, so a space is put into them: they
stay readable, and become plain text tokens. The pattern covers the tokens of the usual chat
templates, and those of code, images and reserved places in the usual vocabularies. It is the same
for every model, so a prompt is, too. Other tokens that a vocabulary may have are left as they are.
"""

import re

_NAMES = (
    "bos|eos|pad|unk|sep|cls|mask|start_of_turn|end_of_turn|turn|start_of_image|end_of_image"
    "|image_soft_token|begin_of_text|end_of_text|fim_prefix|fim_middle|fim_suffix|think"
    "|tool_call|tool_response|tool_output|tools|function_call|arg_key|arg_value|image|sop"
    "|end_of_utterance|start_of_audio|end_of_audio|audio_soft_token|im_start|im_end|eop"
    r"|fake_token_around_image|global-img|row_\d+_col_\d+"  # SmolVLM
    r"|unused_?\d+|reserved_?\d+|extra_id_\d+|(?:SPECIAL|special)_\d+"
    "|repo_?name|file_?sep|filename|gh_stars|issue_(?:start|comment|closed)|empty_output"
    "|jupyter_(?:start|text|code|output|script)|commit_(?:before|msg|after)|fim[-_](?:pad|prefix"
    "|middle|suffix)|pr(?:_[a-z_]+)?|code_to_intermediate|intermediate_to_code"  # StarCoder, SmolLM
)
CONTROL = re.compile(
    r"<\|[^<>|\s]{1,60}\|?>"  # <|im_end|>, <|eot_id|>; Gemma 4's <|turn>
    r"|<[^<>|\s]{1,60}\|>"  # Gemma 4's <turn|>
    r"|<｜[^<>｜]{1,60}｜>"  # DeepSeek's
    rf"|</?(?:s|{_NAMES})>"
    r"|<<?/?SYS>>?"
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|ARGS|IMG"
    r"|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|PREFIX|MIDDLE|SUFFIX|CALL_ID|THINK|CLS|SEP|PAD|UNK"
    r"|[gs]?MASK|UNUSED_TOKEN_\d+|control_\d+)\]"
)


def plain(text: str) -> str:
    """The text with a space after the first character of each control token."""
    return CONTROL.sub(lambda token: f"{token[0][0]} {token[0][1:]}", text)


def has_control_tokens(text: str) -> bool:
    """Whether `plain` changes the text."""
    return ("<" in text or "[" in text) and CONTROL.search(text) is not None
