"""The protocols that editors and clients speak, each a translation.

A protocol decides how a request is read and how an answer is put, by its clients' own source. It takes the shapes of
`bytelm.serving.exchange` and gives routes; what is asked of the model is an `Ask`, the same for all of them. It never
touches the model itself, opens nothing that a request names, and no text of a request becomes a special token.
"""
