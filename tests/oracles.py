"""The long way round, to test the short way against."""

import dataclasses

import jax.numpy as jnp

from vpjax.methods.vpt import VPT


class InsertedVPT(VPT):
    """VPT with all prompts as tokens, whose outputs are overwritten or cut out as published."""

    def keep(self, backbone):
        return None

    def step(self, layer, tokens, ctx):
        present = tokens.extra > self.extra
        if ctx.layer in self.at:
            prompt = self.prompt(len(tokens.x), ctx)
            if present:
                tokens = tokens.overwrite(prompt, at=self.extra)
            else:
                tokens = tokens.insert(prompt, at=self.extra)
        elif present and ctx.layer > self.at[-1] and not self.expand:
            end = self.extra + self.num_tokens
            x = jnp.concatenate([tokens.x[:, : self.extra], tokens.x[:, end:]], axis=1)
            tokens = dataclasses.replace(tokens, x=x, extra=self.extra)
        return layer(tokens, ctx)
