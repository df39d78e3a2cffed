"""CLIP's text side, and what joins it to images; the vision tower is `vpjax.backbones.clip`."""
