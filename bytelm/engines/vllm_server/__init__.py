"""vllm_server."""
