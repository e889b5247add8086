"""`Ensemble`: several byte models as one, whatever their vocabularies and engines.

This chapter decides how the members' distributions of the next byte become one: a mixture, bayes, or a product
(combine.py). It takes byte models, weights and a formula. It gives a `ByteModel`, so an ensemble can be a member of
another, and an `Attribution`, which says who drove each byte. It asks its members only by the steps of
sampling/steps.py. It never sees a token, and of members that a draw does not depend on it asks nothing.
"""
