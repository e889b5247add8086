"""One model for many askers: requests that join and leave a running batch, and the protocols that bring them.

This chapter decides who is served when, and in which words. It takes any byte model, and gives `Session` (session.py):
asynchronous completions, infills and streams, whose model calls are shared; and `app.create_app`, a server that speaks
HTTP (``bytelm[serve]``). It draws nothing itself.

Read on in ``session``, ``asks`` (what a request comes to), ``exchange`` (one request and its answer), ``protocols/``,
``app`` (all of it together).
"""

from bytelm.serving.session import LiveStream, Session

__all__ = ["LiveStream", "Session"]
