"""Tensor records, as ggcp, ggcl, ggla, ggjt, ggmf and ggml files have them: read, and found again after damage.

What a damaged file has is found in two ways. All records of a checkpoint follow from the numbers before them: the
headers that are left tell these (`numbers`) and the layout of the optimizer (`optimizer`); all that remains is in
`checkpoint`. Records that no number tells are found by their names (`named`): what they are like is a `series`, and
what follows what a `template`.

Both end with the `places` of all records: the `headers` that they must have, the `joints` between the data of two, by
how many bytes each is moved, and so which data is whole. The file is read with its records there (`reading`), and what
is lost of a checkpoint is left out (`recovery`).
"""
