"""Baselines that add nothing but a head: what trains is a regular expression.

Linear   the head                       (an MLP head with head_hidden=2 is the paper's MLP-3)
Full     everything
"""

from vpjax.methods.base import Method


class Linear(Method):
    """Linear probe: the backbone stays frozen."""


class Full(Method):
    """Full fine-tuning; the backbone's dropout acts while it trains."""

    trainable = r".*"
    backbone_dropout = True
