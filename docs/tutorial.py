# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial: the post in ten cells
#
# A sparse autoencoder (SAE) gives a model directions without names. A *verbalizer* is a language model that was trained to say what a vector of its own residual stream
# means. Francesco Zaffino's post
# [SAE It Across Models](https://www.lesswrong.com/posts/AtbZQuAn2iY2jCup2/sae-it-across-models-explaining-features-with-foreign-nla)
# asks: can the verbalizer of *another* model explain them, if a linear map carries them over?
#
# Here the question is put to two small models that ship with dragoman: features of SmolLM2-135M in the words of Gemma-3-270M's verbalizer. It runs on two cores without a
# network. The first ten cells repeat the post; then one thing is varied; then you bring a vector of your own.

# %% [markdown]
# ## 1. A dictionary and two verbalizers
#
# The SAE sits at block 23 of SmolLM2. One verbalizer reads Gemma's block 12, the other SmolLM2's own block: it is the *native* one, the reference that you would not
# have for your own model.

# %%
import dragoman as dg

sae = dg.open_dictionary("tiny-sae")
foreign = dg.Verbalizer.open("tiny-gemma-av", dtype="bfloat16")
native = dg.Verbalizer.open("tiny-smollm2-av", dtype="bfloat16")
[sae, foreign, native]

# %% [markdown]
# ## 2. The crossing
#
# The post's map: both models read the same 1,000 sentences, each sentence becomes its mean activation, and a ridge regression with a penalty of 100 predicts Gemma's from
# SmolLM2's. What was read is kept in a cache, so the second time takes no time.

# %%
crossing = dg.fit_crossing(
    sae, foreign, map="post", method="ridge", lam=100, dtype="bfloat16"
)
crossing

# %% [markdown]
# ## 3. How good is it?
#
# The post reports a held-out cosine of 0.868. A cosine alone says little: on these streams a *constant* scores nearly as high as the map, because all activations share a
# large mean. With the mean taken off the number means something.

# %%
held_out = crossing.map.report["held_out"]
named = ("raw_cosine", "constant_cosine", "centred_cosine")
{name: round(held_out[name], 3) for name in named}

# %% [markdown]
# ## 4. Five features
#
# The post took 45, one of each topic. Five do for a tutorial, and are too few to prove anything.

# %%
ids = [1505, 4497, 1240, 4333, 2418]
features = sae.features(ids)
features

# %% [markdown]
# ## 5. Plain
#
# The mapped direction as it is, the post's first condition. `native` asks SmolLM2's own verbalizer for the reference as well.
#
# Forty tokens are about two of a text's three sentences, and half the time; leave `max_new_tokens` out for whole texts.

# %%
how = {"through": crossing, "route": "map", "max_new_tokens": 40}
plain = dg.explain(
    features, by=foreign, native=native, washout="none", out="runs/plain", **how
)
plain

# %% [markdown]
# ## 6. Washed out
#
# A verbalizer was trained on whole activations, and a bare direction is not like one. *Background washout* mixes the model's usual activation in. The post weighs it by
# hand; here the weight is computed: real activations lie at a certain angle to their mean, which their spread tells, and `on-shell` goes there.

# %%
washed = dg.explain(
    features, by=foreign, native=native, washout="on-shell", out="runs/washed", **how
)
print("spread of unit activations, the source's and the target's:")
print(round(crossing.source_background.spread, 3), round(crossing.background.spread, 3))

# %% [markdown]
# ## 7. Side by side
#
# The first line of each text. Where the map goes wrong, the text is as fluent as where it goes right.

# %%
def first_line(row):
    return row.text.splitlines()[0] if row.text else "(nothing)"


sides = {
    "native": washed.explanations("native"),
    "plain": plain.explanations("plain"),
    "washed": washed.explanations("washed"),
}
for rows in zip(*sides.values()):
    print("feature", rows[0].feature)
    for side, row in zip(sides, rows):
        print(f"  {side:7} {first_line(row)}")

# %% [markdown]
# ## 8. The control
#
# Random directions, put through the same steps: whatever is said of them, there is no feature behind it. They come as a file of vectors, as your own would.

# %%
import numpy as np

np.save("noise.npy", np.random.default_rng(0).standard_normal((3, sae.d_model)))
noise = dg.open_dictionary("noise.npy", site=sae.site)
control = dg.explain(noise, by=foreign, out="runs/noise", **how)
for row in control.explanations():
    print(first_line(row))

# %% [markdown]
# ## 9. The lift
#
# The post's measure: how much nearer a text is to the native text of its own feature than to those of the others, by a sentence model. An estimate says what it is of and
# what it was compared with. The intervals are wide, for these are five features.

# %%
dg.score(plain).lift["plain"]

# %%
dg.score(washed).lift["washed"]

# %% [markdown]
# ## 10. What is known of one feature
#
# Each row carries a card: how much of the direction the map explains (`coverage`), how long its image is, and what speaks for or against it.

# %%
washed.explanations("washed")[1].card

# %% [markdown]
# ## Vary one thing: the route
#
# The map says what a row *writes*. Where the SAE has an encoder there is another way across: average Gemma's activations over the places at which the feature fires. That
# says what it *fires on*, and on the embedded pair its texts quote the firing word more often ([the table](pair.md)). Change `route` and keep the rest.

# %%
fires = dg.explain(
    features, by=foreign, map="post", route="direct", max_new_tokens=40,
    dtype="bfloat16", out="runs/fires",
)
for wrote, fired in zip(washed.explanations("washed"), fires.explanations()):
    print("feature", wrote.feature)
    print("  by the map ", first_line(wrote))
    print("  direct     ", first_line(fired))

# %% [markdown]
# ## Your own vector
#
# A probe, a steering vector, a mean difference: a file of numbers, and the place they live in. Here it is the difference between what SmolLM2 holds at the end of four
# sentences about the sea and of four about money, and the opposite of it: a verbalizer uses the direction alone, so the sign decides.

# %%
sea = [
    "The boat left the harbour and sailed along the coast.",
    "Waves broke over the deck while the sailors pulled the ropes.",
    "The fishermen cast their nets far out in the ocean.",
    "At low tide the crabs hid under the wet rocks of the beach.",
]
money = [
    "The bank lent the company money at a low rate of interest.",
    "She paid her bills and put the rest into her savings account.",
    "Investors sold their shares when the price began to fall.",
    "The tax on income is due at the end of the year.",
]
at_sea, in_money = (
    dg.activations(sae.site, some, at="last").rows.mean(axis=0) for some in (sea, money)
)
np.savez(
    "mine.npz", sea_less_money=at_sea - in_money, money_less_sea=in_money - at_sea
)
mine = dg.open_dictionary("mine.npz", site=sae.site)
own = dg.explain(mine, by=foreign, out="runs/mine", **how)
own

# %% [markdown]
# Nothing here says whether to believe these two: vectors without an encoder fire nowhere, so no sentence can be checked and no confidence is given
# ([what a score cannot tell you](limits.md)). Everything is a table for pandas:

# %%
own.to_pandas()[["feature", "text", "card_status", "card_coverage"]]
