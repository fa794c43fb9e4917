"""What is said of evaluators before a build: estimates, forecasts and notes.

In go a recipe's graph and what is built of it, out come lines of `finery plan` and notes of
`finery check`. No evaluator imports this, so it is in no key.
"""
