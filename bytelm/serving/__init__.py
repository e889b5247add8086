"""One model for many askers: requests that join and leave a running batch.

This chapter decides who is served when. It takes any byte model, and gives `Session` (session.py): asynchronous
completions, infills and streams, whose model calls are shared. It draws nothing itself and speaks no protocol.
"""

from bytelm.serving.session import LiveStream, Session

__all__ = ["LiveStream", "Session"]
