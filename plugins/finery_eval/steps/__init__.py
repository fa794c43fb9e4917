"""The evaluators, one step type a module.

In go models and rows, out come metrics; what evaluators share is in `finery_eval.evaluator`.
"""
