"""The benchmark harness: the product beside its baselines, in one run, proven by the sums.

`README.md` says how it measures and what each figure means. `run` is the whole run in order, `stage` its
servers, `plan` its sizes. The contestants are `product`, `naive` (redis-py), `atomic` and `copy_floor`
(PostgreSQL) and `ceiling` (the server). `figures`, `document` and `page` turn readings into reports.
"""
