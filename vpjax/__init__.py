"""Visual prompt tuning in JAX. Read `vpjax/models/model.py` first."""
