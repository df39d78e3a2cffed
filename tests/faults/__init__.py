"""Faults put into files of vpjax and of others: what becomes of them, as a table.

python -m tests.faults                    every kind, 200 damages of each file
python -m tests.faults --trials 40 --only history result.json

A kind is a function in a module of `tests.faults.kinds`: it makes a good file and the reader of it.
A row counts the trials, and how each ended: "read" (the file was still good, or what was lost is
made anew), "named" (a `UserError` that names a file and says what to do) or "lost": a traceback, a
hang, or a value that differs in silence where the kind can tell.
"""
