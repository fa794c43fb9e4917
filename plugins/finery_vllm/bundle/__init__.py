"""The folder that vLLM serves: several adapters on one base, or one model.

Input: trained models. Output: a bundle with the weights, the frozen chat template, the command and
a guide, or an error that says which adapter vLLM couldn't serve. `serving` runs one for
`finery serve`.
"""
