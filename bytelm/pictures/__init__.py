"""Pictures: values that were computed elsewhere, as one self-contained HTML document, and files written whole.

Takes plain numbers, bytes and names. Gives text: a document that a browser opens from a file, or a frame for a
notebook. Decides how a picture looks, and nothing of what it says: no model, tokenizer or array is known here. The
browser's part is in page/, which the page of `bytelm serve` shares.
"""
