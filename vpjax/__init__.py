"""Visual prompt tuning in JAX. Read `vpjax/model.py` first."""
