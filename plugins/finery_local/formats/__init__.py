"""Readers of the formats of weights: GGUF and safetensors. They read headers, not weights."""
