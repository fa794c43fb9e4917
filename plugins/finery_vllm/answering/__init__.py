"""Answers of vLLM in a build: the step `vllm.model`, and the engine of its models.

Input: a model and requests. Output: their answers, to prompts that have the trained tokens. An
adapter is proven to be applied before the first answer counts.
"""
