"""In which column each position of a batch lands, told by what the batch holds beside its loss.

- `watch`: follows every batch, and puts the sums of an interval into their columns.
- `uncoded`: first tokens that nothing predicts. `padding`: what only fills rows up.
- `rows`: which rows a batch holds, and what each of them cost. `replay`: rows that came before.
"""
