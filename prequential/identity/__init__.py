"""What was coded, and what of it before.

- `exposure`: which rows came before, exact up to a number of them.
- `refeeding`: which rows of a pass that began again had come before the cut.
- `passages`: a sampled audit of text that came before.
- `coverage`: how often each token of a corpus was coded, where rows say where they begin.
"""
