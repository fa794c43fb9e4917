"""The evaluators, one step type a module.

Input: models and rows. Output: metrics; what evaluators share is in `finery_eval.evaluator`.
"""
