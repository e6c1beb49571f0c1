"""Speculative decoding: a drafter guesses, one pass of the target judges, a rule decides.

Drafter.propose(pictures, budgets) -> drafts         trees of guesses
Verifier.laws(pictures, drafts)    -> target laws    one pass, ancestors alone are seen
Rule.decide(p, q, guesses, tape)   -> what stays     lossless, or not

Of vectors (`vectors`, `paths`) draft and target are generators that say by which path they drew.
"""

from arra.samplers.speculative.sampler import SpeculativeSampler as SpeculativeSampler  # registers
from arra.samplers.speculative.vectors import SpeculativeVectorSampler as SpeculativeVectorSampler

Speculation = SpeculativeSampler | SpeculativeVectorSampler
"""Draws codes, or vectors."""
