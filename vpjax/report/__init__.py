"""From run folders to tables people publish: `--mode report`.

runs      finds run folders and reads what they say of themselves
sources   what numbers must share to stand in one column, and the refusal if they do not
cells     method x data set x seed, with the means of each benchmark
content   what a report says, in order
document  headings, texts, tables and pictures, as Markdown
page      the same as one HTML file that needs no other
latex     the tables for a paper
lines     the tables for a program: CSV
write     all of it, into a folder
"""

from vpjax.report.write import report

__all__ = ["report"]
