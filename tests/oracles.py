"""The long way round, to test the short way against."""

from vpjax.methods.vpt import VPT


class InsertedVPT(VPT):
    """VPT-deep as published: prompts are tokens, and what became of them is overwritten."""

    def keep(self, backbone):
        return None

    def start(self, backbone, images, ctx):
        tokens = backbone.embed(images, ctx)
        return tokens.insert(self.prompt(0, len(images), ctx.at(0)), at=tokens.extra)

    def step(self, layer, tokens, ctx):
        if ctx.layer > 0:
            prompt = self.prompt(ctx.layer, len(tokens.x), ctx)
            tokens = tokens.overwrite(prompt, at=tokens.extra - prompt.shape[-2])
        return layer(tokens, ctx)
