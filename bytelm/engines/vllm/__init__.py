"""A model on vLLM in processes of its own: what is asked of vLLM for rows and draws, and what is made of its answers.

This chapter decides when sequences enter and leave vLLM's batch, and where a row comes from: from vLLM's workers, which
keep the rows of the last steps, or from vLLM's own log-probabilities. It takes a model's name, vLLM's options and token
ids. It gives a `TokenLM` that also draws tokens (engine.py), and what it shares with the engine on a server
(vllm_model.py). It never sees a byte, and it never caches keys and values, batches or parallelises: vLLM does.
"""
