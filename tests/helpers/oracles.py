"""The long way round, to test the short way against."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vpjax.methods.sa2vp import SA2VP
from vpjax.methods.vpt import VPT
from vpjax.nn.layers import layer_norm
from vpjax.nn.tokens import over_batch


class InsertedVPT(VPT):
    """VPT with all prompts as tokens, whose outputs are overwritten or cut out as published."""

    def num_outputs(self, backbone):
        return None

    def step(self, layer, tokens, ctx):
        present = tokens.num_prefix_tokens > self.num_prefix_tokens
        if ctx.layer in self.at:
            prompt = self.prompt(len(tokens.x), ctx)
            if present:
                tokens = tokens.overwrite(prompt, at=self.num_prefix_tokens)
            else:
                tokens = tokens.insert(prompt, at=self.num_prefix_tokens)
        elif present and ctx.layer > self.at[-1] and not self.expand:
            end = self.num_prefix_tokens + self.num_tokens
            x = jnp.concatenate([tokens.x[:, : self.num_prefix_tokens], tokens.x[:, end:]], axis=1)
            tokens = dataclasses.replace(tokens, x=x, num_prefix_tokens=self.num_prefix_tokens)
        return layer(tokens, ctx)


class PlainSA2VP(SA2VP):
    """SA2VP formula by formula, without dropout: every pass alone, whole and for each image."""

    def num_outputs(self, backbone):
        return None

    def start(self, backbone, images, ctx):
        image, prompt = super().start(backbone, images, ctx)
        return image, each(prompt, prompt.x, len(images))

    def step(self, layer, state, ctx):
        image, prompt = state
        after = [layer(image, ctx), layer(prompt, ctx)]
        if ctx.layer not in self.at:
            return tuple(after)
        to = 1 if ctx.layer in self.to_prompt else 0
        received = self.interaction(layer, state[to], state[1 - to], ctx)
        if str(ctx.layer) in self.deep:
            deep = self.deep[str(ctx.layer)]
            fresh = layer(each(image, deep.prompt(image.x.dtype), len(image.x)), ctx)
            after[1] = dataclasses.replace(prompt, x=after[1].x + fresh.x * deep.weight[...])
        after[to] = dataclasses.replace(image, x=after[to].x + self.inter_weight * received)
        return tuple(after)

    def interaction(self, layer, receiver, giver, ctx):
        scale, bias = layer.norm1.scale[...], layer.norm1.bias[...]
        a, b = (layer_norm(t.x, scale, bias, 1e-6) for t in (receiver, giver))
        q, k, v = layer.attn.query(a), layer.attn.key(b), layer.attn.value(b)
        shape, acc = q.shape, self.cross_attn == "acc"
        if acc:
            q, k, v = (y.reshape(*y.shape[:2], 1, -1) for y in (q, k, v))
        q = q * q.shape[-1] ** -0.5
        extra = receiver.num_prefix_tokens
        weights = jax.nn.softmax(jnp.einsum("bqnd,bknd->bnqk", q[:, :extra], k))
        first = jnp.einsum("bnqk,bknd->bqnd", weights, v)
        at, inside = nine(receiver.grid)
        near = inside[..., None, None]
        k, v = (jnp.where(near, y[:, extra:][:, at], 0) for y in (k, v))  # B cells 9 N d
        scores = jnp.einsum("bqnd,bqknd->bqkn", q[:, extra:], k)
        if not acc:
            scores = jnp.where(inside[..., None], scores, -jnp.inf)
        rest = jnp.einsum("bqkn,bqknd->bqnd", jax.nn.softmax(scores, axis=2), v)
        y = layer.attn.out(jnp.concatenate([first, rest], axis=1).reshape(shape))
        return self.adapters[str(ctx.layer)](y + receiver.x, 0.0, ctx)


def each(tokens, x, batch):
    return dataclasses.replace(tokens, x=over_batch(x, batch))


def nine(grid):
    """The 3 x 3 cells around each cell, and which of them exist."""
    h, w = grid
    shifts = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    cells = [[(y + dy, x + dx) for dy, dx in shifts] for y in range(h) for x in range(w)]
    inside = np.array([[0 <= y < h and 0 <= x < w for y, x in row] for row in cells])
    at = np.array([[y * w + x for y, x in row] for row in cells])
    return np.where(inside, at, 0), inside
