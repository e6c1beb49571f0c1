"""Speculative decoding: a drafter guesses, one pass of the target judges, a rule decides.

Drafter.propose(pictures, budgets) -> drafts         trees of guesses
Verifier.laws(pictures, drafts)    -> target laws    one pass, ancestors alone are seen
Rule.decide(p, q, guesses, tape)   -> what stays     lossless, or not
"""

from arra.samplers.speculative.sampler import SpeculativeSampler as SpeculativeSampler  # registers
