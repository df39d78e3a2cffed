"""Studies: many runs, and a table of what came out.

cells         labelled changes to a config and their runs, for `compare` and `ablate`
compare       the command for recipes with config.study.compare: one table of methods
ablate        the command `ablate`: a named study with the table and picture of its kind
tune          the command `tune`: choose settings on val, then read the test split
plan          a task of `tune`: its config, its folder, its trials
trials        the grid of `tune` as runs
cost          the estimate of `tune --dry_run`
prune         which prompts and pieces of E2VPT are pruned
tune_report   the files that `tune` writes
"""
