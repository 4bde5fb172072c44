"""The proof kit: named scenarios break real servers under load, and a checker judges what is left.

    scenario ──▶ arena ──▶ stage: servers, hops with faults, engines, workers
                   │
                   └─────▶ load ──▶ history ─┐
                                             ├──▶ checker ──▶ verdict
                           ledger, Redis ────┘

Everything that was asked and answered is kept, and judged afterwards, apart from what happened: the
checker is pure, and knows neither servers nor faults.
"""
