"""Certified bounds of a classifier's margins, by linear bound propagation through the graph of its copy.

Every operator is enclosed between two affine functions of its operands, valid on their range (``affine``,
``activations``, ``max_pool``, ``bilinear``). These are propagated backwards from the margins to the pixels, where their
minimum over the ball has a closed form (``backward``; CROWN, Zhang et al. 2018, arXiv:1811.00866; on general graphs Xu
et al. 2020, arXiv:2002.12920). ``ranges`` computes the range of every operand by interval arithmetic (Gowal et al.
2018, arXiv:1810.12715) and the same backward pass. ``slopes`` optimises the lines below the activations, ``branching``
splits activations until the margin is proven or the time is over. ``bounder`` combines them.
"""
