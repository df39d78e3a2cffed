"""Tables, a page and pictures of run folders: the command `report`, and pictures of one run.

write           write a whole report into a folder
run_folders     find run folders and read their config, result and status
comparability   what runs must share (splits, data, preprocessing, weights) to be in one column
tables          group runs into tables: method x data set x seed
means           means over a benchmark's data sets, and ranks of methods
sections        the sections of a report of several runs
run_sections    the sections of a report of one run
blocks          headings, texts, tables, pictures: what sections are made of
markdown, html  blocks as report.md and as report.html
latex           tables for a paper: report.tex
csv_tables      tables for a program: report.csv and report_runs.csv
table_pictures  the pictures of a table
finish          draw the results of a run that has just ended
plots/          every figure
"""
